//! Unsupported state: each program has one kind, which `dump.log` must list. Epoll watches are identified by the
//! watched file.

use fake_cri::checkpoint::Freeze;
use rstest::rstest;

use crate::rare_state::{Script, checkpoint_archive, file_of, unsupported_by_strict};

/// The start of each program.
const SCRIPT_HEAD: &str =
    "import ctypes, fcntl, os, select, socket, threading, time\nlibc = ctypes.CDLL(None, use_errno=True)\n";
/// The end of each program.
const SCRIPT_TAIL: &str = "\nprint('ready', flush=True)\ntime.sleep(1000)\n";

#[rstest]
#[case::lock_of_a_child(
    "f = open('file', 'w')\nr, w = os.pipe()\nif os.fork() == 0:\n  fcntl.lockf(f, fcntl.LOCK_EX)\n  os.write(w, b'x')\n  time.sleep(1000)\nos.read(r, 1)",
    "the file locks of descriptor"
)]
#[case::senders(
    "a = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\na.bind('a')\nb = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\nb.bind('b')\nb.sendto(b'x', 'a')",
    "the sender addresses of unread packets"
)]
#[case::listener_option(
    "s = socket.socket()\ns.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)\ns.bind(('127.0.0.1', 0))\ns.listen(1)",
    "the option TCP_DEFER_ACCEPT"
)]
#[case::namespace_file("f = os.open('/proc/self/ns/net', os.O_RDONLY)", "which is of nsfs and has no path")]
#[case::directory_of_a_thread(
    "e = threading.Event()\ndef own():\n  libc.unshare(0x200)\n  os.chdir('/')\n  e.set()\n  time.sleep(1000)\nthreading.Thread(target=own, daemon=True).start()\ne.wait()",
    "working directory, root and umask (CLONE_FS)"
)]
#[case::one_shot_watch(
    "r, w = os.pipe()\ne = select.epoll()\ne.register(r, select.EPOLLIN | select.EPOLLONESHOT)\nos.write(w, b'x')\nassert e.poll(5)",
    "(EPOLLONESHOT)"
)]
#[case::mode_of_a_pipe("r, w = os.pipe()\nos.fchmod(r, 0o640)", "the mode 640 of the pipe")]
fn unsupported_state_is_named(#[case] program: &str, #[case] expected: &str) {
    let dir = tempfile::tempdir().unwrap();
    let Some(script) = Script::start(&format!("{SCRIPT_HEAD}{program}{SCRIPT_TAIL}"), dir.path()) else {
        return;
    };
    let unsupported = unsupported_by_strict(script.pid());
    assert!(unsupported.contains(expected), "{unsupported}");
}

#[test]
fn epoll_target_is_found_by_its_current_fd() {
    let dir = tempfile::tempdir().unwrap();
    let program = "e = select.epoll()\nr, w = os.pipe()\nother, o = os.pipe()\ne.register(r, select.EPOLLIN)\nos.dup2(r, 99)\nos.dup2(other, r)\nprint(e.fileno(), flush=True)\ntime.sleep(1000)\n";
    let Some(script) = Script::start(&format!("{SCRIPT_HEAD}{program}"), dir.path()) else {
        return;
    };
    let epoll: i32 = script.ready.parse().unwrap();
    let contents = checkpoint_archive(script.pid(), Freeze::Snapshot);
    let watches = file_of(&contents, script.pid(), epoll).epfd.unwrap().tfd;
    assert_eq!(watches.iter().map(|watch| watch.tfd).collect::<Vec<_>>(), [99]);
    let log = contents.log();
    assert!(!log.contains("unsupported"), "{log}");
}
