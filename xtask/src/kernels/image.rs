//! A kernel as packages hold it, made ready to boot.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command::{line, read};

/// Marks a folder as complete.
pub(super) const READY: &str = "ready-1";

/// Modules that a guest needs before it sees any file system, and without which it can do.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_console", "virtiofs", "overlay"];

/// A kernel that can be booted.
pub(super) struct Kernel {
    /// `uname -r`.
    pub(super) version: String,
    /// The image.
    pub(super) image: PathBuf,
    /// Modules for the guest's start, in an archive that what is to be run is added to.
    pub(super) start: Vec<u8>,
}

impl Kernel {
    /// Reads what [`make`] left.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn open(folder: &Path) -> Result<Kernel> {
        let version =
            folder.file_name().and_then(|name| name.to_str()).context("a version as name")?.to_owned();
        let start =
            fs::read(folder.join("start.cpio")).with_context(|| format!("reading {}", folder.display()))?;
        Ok(Kernel { version, image: folder.join("vmlinux"), start })
    }
}

/// Makes unpacked packages ready to boot.
///
/// # Errors
/// If something that is needed is not there.
pub(super) fn make(folder: &Path, version: &str) -> Result<()> {
    let root = folder.join("root");
    let images = [
        root.join(format!("boot/vmlinuz-{version}")),
        root.join(format!("usr/lib/modules/{version}/vmlinuz")),
        root.join(format!("lib/modules/{version}/vmlinuz")),
    ];
    let image = images.iter().find(|path| path.exists()).context("the packages hold no kernel")?;
    let packed = fs::read(image)?;
    // The image itself boots some seconds sooner than the one that unpacks itself.
    fs::write(folder.join("vmlinux"), payload(&packed).unwrap_or(packed))?;
    let modules = ["usr/lib/modules", "lib/modules"]
        .iter()
        .map(|parent| root.join(parent).join(version))
        .find(|path| path.join("kernel").exists());
    let mut start = Archive::default();
    start.folder("modules");
    if let Some(modules) = &modules {
        let mut order = Vec::new();
        let all = files(modules)?;
        for name in MODULES {
            load(&all, name, &mut order, &mut start)?;
        }
        start.file("modules/order", order.join("\n").as_bytes(), 0o644);
        // For what guests load themselves: veth, and the like. Where there is no depmod they do without.
        let _ = Command::new("depmod")
            .arg("-b")
            .arg(depmod_base(modules))
            .arg(version)
            .stderr(Stdio::null())
            .status();
        let place = folder.parent().context("a folder in the cache")?.join(version);
        let place = place.join("root").join(modules.strip_prefix(&root)?);
        start.file("modules/folder", place.as_os_str().as_encoded_bytes(), 0o644);
    }
    fs::write(folder.join("start.cpio"), start.bytes)?;
    fs::write(folder.join(READY), [])?;
    Ok(())
}

/// What `depmod -b` wants: the folder in which `lib/modules` stands.
fn depmod_base(modules: &Path) -> &Path {
    modules.ancestors().nth(3).unwrap_or(modules)
}

/// Unpacks the kernel inside a bzImage, Documentation/arch/x86/boot.rst; `None` if that is not possible here.
fn payload(image: &[u8]) -> Option<Vec<u8>> {
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let sectors = match *image.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let begin = (sectors + 1) * 512 + word(0x248)?;
    let packed = image.get(begin..begin + word(0x24c)?)?;
    let program = match packed {
        [0xfd, b'7', b'z', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0x1f, 0x8b, ..] => "gzip",
        _ => return None,
    };
    let unpacked = unpack(program, packed).ok()?;
    unpacked.starts_with(b"\x7fELF").then_some(unpacked)
}

/// What a program makes of packed bytes. What follows them may make it complain at the end.
fn unpack(program: &str, packed: &[u8]) -> Result<Vec<u8>> {
    let mut command = Command::new(program);
    command.arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("starting {}", line(&command)))?;
    let mut input = child.stdin.take().context("a pipe to it")?;
    let packed = packed.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&packed));
    let output = child.wait_with_output()?;
    // It may stop to read before the end.
    let _ = writer.join();
    Ok(output.stdout)
}

/// All files of a folder and those below it.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// The name of a module file: `virtio-pci.ko.xz` is `virtio_pci`.
fn name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    Some(name.split_once(".ko")?.0.replace('-', "_"))
}

/// Adds a module, those that it depends on first. One that is not there is built into the kernel, or missed later.
fn load(all: &[PathBuf], wanted: &str, order: &mut Vec<String>, start: &mut Archive) -> Result<()> {
    let file = format!("{wanted}.ko");
    if order.contains(&file) {
        return Ok(());
    }
    let Some(path) = all.iter().find(|path| name(path).is_some_and(|name| name == wanted)) else {
        return Ok(());
    };
    let packed = fs::read(path)?;
    let module = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => unpack("xz", &packed)?,
        Some("zst") => unpack("zstd", &packed)?,
        Some("gz") => unpack("gzip", &packed)?,
        _ => packed,
    };
    for depends in depends(&module) {
        load(all, &depends, order, start)?;
    }
    start.file(&format!("modules/{file}"), &module, 0o644);
    order.push(file);
    Ok(())
}

/// What a module says of itself: `depends=a,b` in its section `.modinfo`.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let rest = &module[at + KEY.len()..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(0);
    let names = String::from_utf8_lossy(&rest[..end]);
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

/// An archive in the format of the initial RAM file system, Documentation/driver-api/early-userspace/buffer-format.rst.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        let fields = [0, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds a folder.
    pub(super) fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    /// Adds a file.
    pub(super) fn file(&mut self, name: &str, content: &[u8], mode: u32) {
        self.entry(name, 0o100_000 | mode, content);
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, name: &str, target: &str) {
        self.entry(name, 0o120_777, target.as_bytes());
    }

    /// The archive, ended.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

/// The initial RAM file system that runs `script` with the host's file system as its own.
///
/// # Errors
/// If busybox is not there.
pub(super) fn initial(kernel: &Kernel, script: &str) -> Result<Vec<u8>> {
    let busybox =
        read(Command::new("sh").args(["-c", "command -v busybox"])).context("busybox is missing")?;
    let busybox = PathBuf::from(busybox.trim());
    let applets = read(Command::new(&busybox).arg("--list"))?;
    let mut archive = Archive { bytes: kernel.start.clone() };
    for folder in ["bin", "dev", "proc", "sys"] {
        archive.folder(folder);
    }
    let program = fs::read(&busybox)?;
    if program.windows(10).any(|window| window == b"/ld-linux-") {
        bail!(
            "{} needs libraries, which a guest does not have at its start: install busybox-static",
            busybox.display()
        );
    }
    archive.file("bin/busybox", &program, 0o755);
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        archive.link(&format!("bin/{applet}"), "busybox");
    }
    archive.file("init", include_bytes!("init.sh"), 0o755);
    archive.file("run-this", script.as_bytes(), 0o755);
    Ok(archive.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_known_by_name_and_by_what_they_need() {
        assert_eq!(name(Path::new("a/virtio-pci.ko.xz")).as_deref(), Some("virtio_pci"));
        assert_eq!(name(Path::new("a/modules.dep")), None);
        assert_eq!(depends(b"license=GPL\0depends=fuse,virtio-ring\0retpoline=Y\0"), ["fuse", "virtio_ring"]);
        assert!(depends(b"license=GPL\0depends=\0").is_empty());
    }

    #[test]
    fn entries_begin_at_multiples_of_four() {
        let mut archive = Archive::default();
        archive.file("a", b"12345", 0o644);
        assert_eq!(archive.bytes.len() % 4, 0);
        let end = archive.end();
        assert!(end.len() % 4 == 0 && end.windows(10).any(|window| window == b"TRAILER!!!"));
    }
}
