//! Boots a kernel in an emulated machine.
//!
//! Emulated, because hardware acceleration is not to be had in most places where tests run; computing takes about three times
//! as long. One thread for all processors: with several, older versions of qemu lose a race against the kernel's patching of
//! its own code.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::image::{self, Kernel};
use crate::command::line;

/// Time for the guest to come up.
const BOOT: Duration = Duration::from_secs(120);
/// How often it is looked at.
const PAUSE: Duration = Duration::from_millis(100);

const QEMU: &str = "qemu-system-x86_64";
/// Where virtiofsd may be.
const SERVERS: [&str; 3] = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd"];

/// What is missing on this machine, as a package's name.
pub(super) fn missing() -> Vec<&'static str> {
    let has = |program: &str| {
        std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).exists()))
    };
    let mut packages = Vec::new();
    for (program, package) in [
        (QEMU, "qemu-system-x86"),
        ("busybox", "busybox-static"),
        ("xz", "xz-utils"),
        ("zstd", "zstd"),
        ("depmod", "kmod"),
    ] {
        if !has(program) {
            packages.push(package);
        }
    }
    packages
}

/// The program that serves the host's file system. Newer distributions have it in a package of its own.
pub(super) fn server() -> Option<&'static Path> {
    SERVERS.iter().map(Path::new).find(|path| path.exists())
}

/// Processes that end, and files that go, with the guest.
struct Scratch {
    folder: PathBuf,
    children: Vec<Child>,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        // The root that was served is mounted in another mount namespace only.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Runs a script in a guest as root, over the host's file system, which it cannot change; `told` gets each line that it prints.
///
/// # Errors
/// If the guest does not come up, dies, or does not end in time.
pub(super) fn run(
    kernel: &Kernel,
    processors: u8,
    script: &str,
    limit: Duration,
    told: &mut dyn FnMut(&str),
) -> Result<i32> {
    let folder = format!("ipctrace-guest-{}-{}", std::process::id(), kernel.version);
    let folder = std::env::temp_dir().join(folder);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("host"))?;
    let mut scratch = Scratch { folder: folder.clone(), children: Vec::new() };
    fs::write(folder.join("initial"), image::initial(kernel, script)?)?;
    for name in ["out", "status", "log"] {
        fs::write(folder.join(name), [])?;
    }
    scratch.children.push(serve(&folder)?);
    let mut qemu = machine(kernel, processors, &folder);
    scratch.children.push(qemu.spawn().with_context(|| format!("starting {}", line(&qemu)))?);
    let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
    let mut out = File::open(folder.join("out"))?;
    let (mut text, mut done) = (String::new(), 0);
    let (start, mut up) = (Instant::now(), None);
    loop {
        sleep(PAUSE);
        let ended = scratch.children[1].try_wait()?.is_some();
        let mut bytes = Vec::new();
        out.seek(SeekFrom::Start(done))?;
        done += out.read_to_end(&mut bytes)? as u64;
        text.push_str(&String::from_utf8_lossy(&bytes));
        while let Some((first, rest)) = text.split_once('\n') {
            told(first.trim_end_matches('\r'));
            text = rest.to_owned();
        }
        if up.is_none() && log().contains("guest: ready") {
            up = Some(Instant::now());
        }
        if ended {
            break;
        }
        match up {
            None if start.elapsed() > BOOT => bail!("it did not come up:\n{}", tail(&log())),
            Some(up) if up.elapsed() > limit => bail!("it did not end within {} s", limit.as_secs()),
            None | Some(_) => {}
        }
    }
    let status = fs::read_to_string(folder.join("status"))?;
    match status.trim().parse() {
        Ok(status) => Ok(status),
        Err(_) => bail!(
            "the guest died:\n{}{}",
            tail(&log()),
            fs::read_to_string(folder.join("qemu")).unwrap_or_default()
        ),
    }
}

/// The last lines of the kernel's log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

/// Serves the host's file system, read-only whatever the guest does: what is served is a bind mount in a mount namespace of
/// its own.
fn serve(folder: &Path) -> Result<Child> {
    let server = server().context("virtiofsd is missing: install virtiofsd, or qemu-system-common")?;
    let help = Command::new(server).arg("--help").output().map(|output| output.stdout).unwrap_or_default();
    let options = if String::from_utf8_lossy(&help).contains("--shared-dir") {
        "--shared-dir=\"$1\" --cache=always --sandbox=chroot --thread-pool-size=4"
    } else {
        "-o source=\"$1\",cache=always,sandbox=chroot,no_writeback --thread-pool-size=4"
    };
    let script = format!(
        "mount --bind / \"$1\" && mount -o remount,bind,ro \"$1\" && exec \"$2\" --socket-path=\"$3\" {options}"
    );
    let socket = folder.join("files");
    let log = File::create(folder.join("server"))?;
    let mut command = bound("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"])
        .arg(folder.join("host"))
        .arg(server)
        .arg(&socket)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut child = command.spawn().with_context(|| format!("starting {}", line(&command)))?;
    let start = Instant::now();
    while !socket.exists() {
        if child.try_wait()?.is_some() || start.elapsed() > Duration::from_secs(10) {
            bail!(
                "virtiofsd does not start: {}",
                fs::read_to_string(folder.join("server")).unwrap_or_default()
            );
        }
        sleep(PAUSE / 10);
    }
    Ok(child)
}

/// A program that ends with this one, however that ends.
fn bound(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

fn machine(kernel: &Kernel, processors: u8, folder: &Path) -> Command {
    const MEMORY: &str = "1536M";
    let path = |name: &str| folder.join(name).display().to_string();
    // Without fast string operations, which the emulation does byte by byte, and the kernel would clear and copy whole pages by:
    // half of a tracer's start.
    const PROCESSOR: &str = "max,la57=off,erms=off,fsrm=off";
    let mut command = bound(QEMU);
    command
        .args(["-machine", "q35", "-accel", "tcg,thread=single,tb-size=512", "-cpu", PROCESSOR])
        .args(["-smp", &processors.to_string(), "-m", MEMORY])
        .args(["-nodefaults", "-display", "none", "-no-reboot", "-monitor", "none"])
        .args(["-object", &format!("memory-backend-memfd,id=memory,size={MEMORY},share=on")])
        .args(["-numa", "node,memdev=memory"])
        .args(["-chardev", &format!("socket,id=files,path={}", path("files"))])
        .args(["-device", "vhost-user-fs-pci,queue-size=512,chardev=files,tag=host"])
        .args(["-serial", &format!("file:{}", path("log"))])
        .args(["-device", "virtio-serial-pci", "-device", "virtio-rng-pci"]);
    for port in ["out", "status"] {
        command
            .args(["-chardev", &format!("file,id={port},path={}", path(port))])
            .args(["-device", &format!("virtserialport,chardev={port},name={port}")]);
    }
    // What slows the start down or lets a guest hang rather than end is switched off.
    let line = "console=ttyS0 panic=-1 oops=panic mitigations=off nokaslr audit=0 random.trust_cpu=on \
                rcupdate.rcu_expedited=1 no_timer_check tsc=reliable cryptomgr.notests raid=noautodetect apparmor=0 \
                loglevel=4";
    command
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(folder.join("initial"))
        .args(["-append", line])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if let Ok(log) = File::create(folder.join("qemu")) {
        command.stderr(log);
    }
    command
}
