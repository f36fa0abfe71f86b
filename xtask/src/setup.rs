//! Makes a machine ready to build: nightly with its sources, and a bpf-linker that speaks nightly's LLVM.
//!
//! The linker reads the bitcode that nightly's rustc writes, so its LLVM must not be older than rustc's. Rather than
//! asking for a matching LLVM from the system, it is linked against the very library that rustup's nightly brings.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{line, read, run};
use crate::workspace;

/// Version of bpf-linker that is installed where none fits.
const LINKER: &str = "0.13.0";

/// What building takes.
pub(crate) struct Ready {
    /// Value of PATH under which bpf-linker is found.
    path: std::ffi::OsString,
}

impl Ready {
    /// Lets a command find the tools.
    pub(crate) fn tools<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("PATH", &self.path)
    }
}

/// Installs what is missing, saying what and where.
///
/// # Errors
/// If something cannot be installed, with the command to do it by hand.
pub(crate) fn ready() -> Result<Ready> {
    let rustc = nightly()?;
    rust_src()?;
    let tools = linker(&rustc)?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(tools.into_iter().chain(std::env::split_paths(&path)))?;
    Ok(Ready { path })
}

/// What `rustc -vV` of nightly says.
struct Rustc {
    /// Commit that it was built from.
    commit: String,
    /// Major version of its LLVM.
    llvm: u32,
}

fn nightly() -> Result<Rustc> {
    if read(Command::new("rustup").arg("--version")).is_err() {
        bail!(
            "rustup is missing: the eBPF programs are built with nightly, which https://rustup.rs installs"
        );
    }
    let version = || read(Command::new("rustup").args(["run", "nightly", "rustc", "-vV"]));
    let text = match version() {
        Ok(text) => text,
        Err(_) => {
            say("installing the nightly toolchain with rustup");
            run(Command::new("rustup").args(["toolchain", "install", "nightly", "--profile", "minimal"]))?;
            version()?
        }
    };
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let llvm = field("LLVM version:").and_then(|version| version.split('.').next()?.parse().ok());
    Ok(Rustc {
        commit: field("commit-hash:").unwrap_or("unknown").to_owned(),
        llvm: llvm.context("`rustc -vV` of nightly names no LLVM version")?,
    })
}

/// The sources of `core`, which is compiled for the eBPF target.
fn rust_src() -> Result<()> {
    let sources = sysroot()?.join("lib/rustlib/src/rust/library/core");
    if !sources.exists() {
        say("installing nightly's component rust-src with rustup");
        run(Command::new("rustup").args(["component", "add", "rust-src", "--toolchain", "nightly"]))?;
    }
    Ok(())
}

fn sysroot() -> Result<PathBuf> {
    let path = read(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))?;
    Ok(PathBuf::from(path.trim()))
}

/// The folder of a bpf-linker that fits; `None` if the one on PATH does.
fn linker(rustc: &Rustc) -> Result<Option<PathBuf>> {
    let tools = workspace::target().join("tools");
    let stamp = tools.join("bpf-linker.stamp");
    let wanted = format!("{LINKER} {}", rustc.commit);
    let ours = tools.join("bin/bpf-linker");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) && works(&ours) {
        return Ok(Some(tools.join("bin")));
    }
    if fits(rustc) {
        return Ok(None);
    }
    say(&format!("building bpf-linker {LINKER} into {} (about a minute)", tools.display()));
    install(rustc, &tools)?;
    if !works(&ours) {
        bail!("{} does not run", ours.display());
    }
    fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(Some(tools.join("bin")))
}

fn works(linker: &Path) -> bool {
    read(Command::new(linker).arg("--version")).is_ok()
}

/// Whether the bpf-linker on PATH can read what nightly writes: it is let link a program.
fn fits(rustc: &Rustc) -> bool {
    let Ok(folder) = tempdir(&rustc.commit) else {
        return false;
    };
    let source = folder.join("probe.rs");
    let program = "#![no_std]\n#![no_main]\n#[panic_handler]\nfn panic(_: &core::panic::PanicInfo<'_>) -> ! { loop {} }\n\
                   #[unsafe(no_mangle)]\n#[unsafe(link_section = \"tracepoint\")]\npub extern \"C\" fn probe() -> i32 { 0 }\n";
    let probe = || -> Result<()> {
        fs::write(&source, program)?;
        read(
            Command::new("rustup")
                .args(["run", "nightly", "rustc", "--edition=2024", "--emit=llvm-bc", "--crate-type=lib"])
                .args(["-Cpanic=abort", "-o"])
                .arg(folder.join("probe.bc"))
                .arg(&source),
        )?;
        read(
            Command::new("bpf-linker")
                .args(["--target=bpfel", "-o"])
                .arg(folder.join("probe.o"))
                .arg(folder.join("probe.bc")),
        )?;
        Ok(())
    };
    let fits = probe().is_ok();
    // Only scratch: nothing depends on its being gone.
    let _ = fs::remove_dir_all(&folder);
    fits
}

fn tempdir(name: &str) -> Result<PathBuf> {
    let folder = workspace::target().join("tools").join(format!("probe-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// `cargo install`, with nightly's own LLVM library.
fn install(rustc: &Rustc, tools: &Path) -> Result<()> {
    let lib = sysroot()?.join("lib");
    let llvm = fs::read_dir(&lib)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("libLLVM.so"))
        })
        .or_else(|| find_versioned(&lib));
    let Some(llvm) = llvm else {
        bail!(
            "nightly brings no LLVM library in {}: install a bpf-linker by hand (`cargo install bpf-linker`, or `cargo binstall bpf-linker`)",
            lib.display()
        );
    };
    let prefix = tools.join("llvm");
    fs::create_dir_all(prefix.join("lib"))?;
    let link = prefix.join("lib/libLLVM.so");
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link)?;
    }
    symlink(llvm, &link)?;
    let mut command = Command::new("cargo");
    command
        .args(["install", "bpf-linker", "--version", LINKER, "--locked", "--force", "--no-default-features"])
        .arg(format!("--features=llvm-{}", rustc.llvm))
        .arg("--root")
        .arg(tools)
        .env("LLVM_PREFIX", &prefix)
        .env("RUSTFLAGS", format!("-Clink-arg=-Wl,-rpath,{}", lib.display()))
        .env("CARGO_TARGET_DIR", tools.join("build"));
    run(&mut command).with_context(|| format!("repeat with: {}", line(&command)))?;
    // A hundred megabytes that are of no further use.
    let _ = fs::remove_dir_all(tools.join("build"));
    Ok(())
}

/// `libLLVM-22-rust-….so`, as some nightlies name it.
fn find_versioned(lib: &Path) -> Option<PathBuf> {
    fs::read_dir(lib).ok()?.filter_map(|entry| Some(entry.ok()?.path())).find(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("libLLVM-"))
    })
}

fn say(what: &str) {
    eprintln!("xtask: {what}");
}
