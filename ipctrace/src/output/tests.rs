use std::fs;
use std::io::Read;
use std::os::fd::AsFd;

use super::*;

/// A directory of this test's own, gone when it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("ipctrace-output-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary directory");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _: io::Result<()> = fs::remove_dir_all(&self.0);
    }
}

fn pipe() -> (File, Output) {
    let (read, write) = nix::unistd::pipe().unwrap();
    (File::from(read), Output::new(write, "pipe".to_owned()))
}

#[test]
fn records_to_a_file_wait_for_a_block_or_for_send() {
    let scratch = Scratch::new("block");
    let path = scratch.0.join("out");
    let mut output = Output::create(&path).unwrap();
    output.record(b"one\n", true).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"");
    output.send().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one\n");
    let long = vec![b'x'; BLOCK];
    output.record(&long, true).unwrap();
    assert_eq!(fs::read(&path).unwrap().len(), 4 + BLOCK);
    assert_eq!(output.take_losses(), None);
}

#[test]
fn records_to_a_terminal_go_out_at_once() {
    let nix::pty::OpenptyResult { master, slave } = nix::pty::openpty(None, None).unwrap();
    let mut output = Output::new(slave, "terminal".to_owned());
    output.record(b"one\n", true).unwrap();
    let mut read = [0; 16];
    let count = File::from(master).read(&mut read).unwrap();
    assert_eq!(&read[..count], b"one\r\n");
}

#[test]
fn a_reader_that_has_gone_is_no_loss() {
    let (read, mut output) = pipe();
    drop(read);
    output.record(b"one\n", true).unwrap();
    assert_eq!(output.send(), Err(ReaderGone));
    let error = output.write_all(b"two\n").and_then(|()| output.flush()).unwrap_err();
    assert!(is_reader_gone(&error));
    assert_eq!(output.take_losses(), None);
    assert!(!is_reader_gone(&io::Error::from_raw_os_error(libc::EPIPE)));
}

#[test]
fn a_full_device_loses_records_counts_them_and_is_reported_once() {
    let mut output = Output::create(Path::new("/dev/full")).unwrap();
    output.record(b"one\n", true).unwrap();
    output.record(b"two\n", true).unwrap();
    output.send().unwrap();
    let losses = output.take_losses().unwrap();
    assert_eq!(losses.count, 2);
    assert_eq!(
        losses.report.unwrap().to_string(),
        "writing to /dev/full: No space left on device; events are being lost, counted as write-failed"
    );
    output.record(b"three\n", true).unwrap();
    output.send().unwrap();
    assert_eq!(output.take_losses(), Some(Losses { count: 1, report: None }));
    assert_eq!(output.take_losses(), None);
}

#[test]
fn only_events_are_counted_but_every_failure_is_known() {
    let mut output = Output::create(Path::new("/dev/full")).unwrap();
    assert!(!output.has_failed());
    output.write_all(b"hello\n").unwrap();
    output.send().unwrap();
    let losses = output.take_losses().unwrap();
    assert_eq!((losses.count, losses.report.is_some(), output.has_failed()), (0, true, true));
    output.write_all(b"lost\n").unwrap();
    output.of_events().write_all(b"an event\n").unwrap();
    output.write_all(b"lost\n").unwrap();
    output.send().unwrap();
    assert_eq!(output.take_losses(), Some(Losses { count: 1, report: None }));
    assert_eq!(output.take_losses(), None);
}

#[test]
fn a_terminal_that_has_hung_up_is_a_reader_that_has_gone() {
    let nix::pty::OpenptyResult { master, slave } = nix::pty::openpty(None, None).unwrap();
    let mut output = Output::new(slave, "terminal".to_owned());
    drop(master);
    assert_eq!(output.record(b"one\n", true), Err(ReaderGone));
}

#[test]
fn a_pipe_that_does_not_block_is_waited_for() {
    let (mut read, mut output) = pipe();
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(output.descriptor().as_fd(), nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
    let line = [vec![b'x'; 999], b"\n".to_vec()].concat();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        read.read_to_end(&mut all).map(|_| all)
    });
    for _ in 0..1000 {
        output.record(&line, true).unwrap();
    }
    output.send().unwrap();
    assert_eq!(output.take_losses(), None);
    drop(output);
    assert_eq!(reader.join().unwrap().unwrap().len(), 1000 * 1000);
}

/// Runs `test` on a file system of 64 KiB, mounted in a namespace of this thread's own; or says why it cannot.
fn on_a_small_disk(name: &str, test: impl FnOnce(&Path)) {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    let scratch = Scratch::new(name);
    let none: Option<&str> = None;
    let mounted = unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
        .and_then(|()| mount(Some("none"), &scratch.0, Some("tmpfs"), MsFlags::empty(), Some("size=64k")));
    match mounted {
        Ok(()) => test(&scratch.0),
        Err(errno) => eprintln!("skipped: mounting a small disk needs root: {errno}"),
    }
    let _: nix::Result<()> = nix::mount::umount(&scratch.0);
}

/// 200 bytes, so that no number of them ends with a page.
fn numbered(number: usize) -> Vec<u8> {
    format!("{number:0199}\n").into_bytes()
}

#[test]
fn on_a_full_disk_every_line_is_whole_and_writing_resumes() {
    on_a_small_disk("full", |disk| {
        let ballast = disk.join("ballast");
        fs::write(&ballast, vec![0; 32 * 1024]).unwrap();
        let path = disk.join("out");
        let mut output = Output::create(&path).unwrap();
        for number in 0..200 {
            output.record(&numbered(number), true).unwrap();
        }
        output.send().unwrap();
        let losses = output.take_losses().expect("40,000 bytes do not fit 32 KiB");
        assert!(losses.report.is_some());
        let whole = fs::read(&path).unwrap();
        assert_eq!(whole.len() % 200, 0);
        assert_eq!(whole.len() as u64 / 200 + losses.count, 200);
        assert!(losses.count < 200);

        fs::remove_file(&ballast).unwrap();
        output.record(&numbered(777), true).unwrap();
        output.send().unwrap();
        assert_eq!(output.take_losses(), None);
        let all = fs::read(&path).unwrap();
        assert_eq!(all, [whole, numbered(777)].concat());
    });
}

#[test]
fn what_another_wrote_behind_ours_is_not_cut_off() {
    on_a_small_disk("shared", |disk| {
        let path = disk.join("out");
        let mut output = Output::create(&path).unwrap();
        // The other's bytes stand where ours have not yet come to.
        fs::write(disk.join("ballast"), vec![0; 24 * 1024]).unwrap();
        let other = fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&other, b"other", 1 << 20).unwrap();
        for number in 0..300 {
            output.record(&numbered(number), true).unwrap();
        }
        output.send().unwrap();
        assert!(output.take_losses().is_some());
        let all = fs::read(&path).unwrap();
        assert_eq!(all.len(), (1 << 20) + 5);
        assert!(all.ends_with(b"other"));

        // The record that was half written is completed once there is room.
        fs::remove_file(disk.join("ballast")).unwrap();
        output.record(&numbered(777), true).unwrap();
        output.send().unwrap();
        assert_eq!(output.take_losses(), None);
        let all = fs::read(&path).unwrap();
        let ours = all.iter().position(|byte| *byte == 0).unwrap_or(all.len());
        assert_eq!(ours % 200, 0);
        assert_eq!(&all[ours - 200..ours], numbered(777));
        assert_eq!(&all[ours - 400..ours - 200], numbered(ours / 200 - 2));
    });
}
