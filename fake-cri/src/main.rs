//! The `fake-cri` command.

fn main() {
    fake_cri::entry_point();
}
