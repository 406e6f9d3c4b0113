//! A line on the terminal that says which case runs. Nothing is drawn where no one looks.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::case::{Clause, Observer, Record};

/// Draws on stderr, and only when that is a terminal.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar of so many cases.
    pub fn new(cases: usize) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(cases as u64), ProgressDrawTarget::stderr());
        let style =
            ProgressStyle::with_template("{bar:24} {pos}/{len} {wide_msg}").expect("the template is well formed");
        bar.set_style(style);
        Progress(bar)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl Observer for Progress {
    fn starts(&mut self, clause: &Clause) {
        self.0.set_message(clause.id);
        self.0.tick();
    }

    fn ended(&mut self, _: &Record) {
        self.0.inc(1);
    }
}
