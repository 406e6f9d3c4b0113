//! The command.

fn main() {
    fake_cri::entry_point();
}
