//! One small process a container: starts it, reaps it and its orphans, writes its log, keeps its exit code, checkpoints
//! it; and the messages between it and fake-cri.
