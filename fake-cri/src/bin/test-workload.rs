//! The test workload alone: a small program for images of containers that runtimes other than fake-cri run.

fn main() {
    fake_cri::workload::run()
}
