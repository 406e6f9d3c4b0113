//! The test workload as a separate program, for container images that other runtimes than fake-cri run.

fn main() {
    fake_cri::workload::run()
}
