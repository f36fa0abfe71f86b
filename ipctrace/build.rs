//! Builds the eBPF programs with nightly and leaves the object where the library includes it from.
//!
//! What it needs, `cargo xtask setup` installs.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn main() -> Result<(), Box<dyn Error>> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let workspace = manifest.parent().ok_or("the crate stands in the workspace")?;
    for source in ["ipctrace-ebpf", "ipctrace-common", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", workspace.join(source).display());
    }
    for tool in ["bpf-linker", "rustup"] {
        if !runs(tool) {
            return Err(format!(
                "{tool}, which building the eBPF programs takes, is not there: `cargo xtask build` sets it up and builds"
            )
            .into());
        }
    }
    let target_dir = out.join("ebpf");
    let object = target_dir.join("bpfel-unknown-none/release/ipctrace-ebpf");
    for (features, name) in
        [("", "ipctrace-ebpf"), ("plain", "ipctrace-ebpf-plain"), ("loads", "ipctrace-ebpf-loads")]
    {
        compile(workspace, &target_dir, features)?;
        fs::write(out.join(name), without_debugging(&fs::read(&object)?)?)?;
    }
    Ok(())
}

/// The object without the information for debuggers, which is most of it: nothing reads it, and it would be in the memory of each
/// tracer. What the kernel and its verifier want to know is in `.BTF` and `.BTF.ext`.
fn without_debugging(object: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    /// Where the header of `.BTF.ext` says how long its part on lines is: include/uapi/linux/btf.h, `struct btf_ext_header`.
    const LINE_INFO_LEN: usize = 20;
    let release = env::var("PROFILE")? == "release";
    let mut builder = object::build::elf::Builder::read(object)?;
    for section in builder.sections.iter_mut() {
        let name = section.name.to_string();
        section.delete = name.starts_with(".debug") || name.starts_with(".rel.debug");
        if name == ".BTF.ext"
            && release
            && let object::build::elf::SectionData::Data(data) = &mut section.data
        {
            // The loader would keep with each function the lines of all that follow it: 20 MB at the start, for no more than the text
            // of the verifier's log, which programs of a debug build have.
            let len = data.to_mut().get_mut(LINE_INFO_LEN..LINE_INFO_LEN + 4).ok_or("a short .BTF.ext")?;
            len.copy_from_slice(&[0; 4]);
        }
    }
    builder.delete_orphans();
    // LLVM has the names of sections among those of symbols.
    let names = builder.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = object::build::elf::SectionData::SectionString;
    let mut written = Vec::new();
    builder.write(&mut written)?;
    Ok(written)
}

fn runs(tool: &str) -> bool {
    let status = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn compile(workspace: &Path, target_dir: &Path, features: &str) -> Result<(), Box<dyn Error>> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    // The object carries type information (BTF): function signatures for the verifier, line numbers for its log. Version 3
    // of the instruction set has atomic adds that return a value, and 32-bit arithmetic.
    let flags = [
        &format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2",
        "-Ctarget-cpu=v3",
        "-Clink-arg=--btf",
        // Small memory is copied and cleared by instructions in place; without this each clearing is a call of a loop over bytes.
        "-Clink-arg=--disable-expand-memcpy-in-order",
    ]
    .join("\x1f");
    let output = Command::new("rustup")
        .args(["run", "nightly", "cargo", "build", "--package", "ipctrace-ebpf", "--release"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir"])
        .arg(target_dir)
        .args(["--features", features])
        .current_dir(workspace)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        // These name the stable toolchain that runs this script.
        .env_remove("RUSTC")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTUP_TOOLCHAIN")
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("building the eBPF programs failed:\n{}", String::from_utf8_lossy(&output.stderr)).into())
}
