//! Kernels from the distribution's archive, by way of the machine's own apt configuration. Nothing is installed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use super::image;
use crate::command::{read, run};

/// A kernel of the matrix.
pub(super) struct Series {
    /// How it is called on the command line and in the table.
    pub(super) name: &'static str,
    /// Where its packages are.
    suite: &'static str,
    /// How their versions begin.
    begins: &'static str,
    /// Processors of the emulated machine. One where programs have no atomic operations and wait for each other for a few turns of a
    /// loop: the emulator lets one processor run for a tenth of a second while the other stands still, and who waits gives up, which
    /// is counted as a loss.
    pub(super) processors: u8,
    /// Both sets of hooks are tried in it in every run of the tests.
    pub(super) both_sets: bool,
}

/// All of them, oldest first.
pub(super) const MATRIX: &[Series] = &[
    Series { name: "5.10", suite: "bullseye-security", begins: "5.10.", processors: 1, both_sets: false },
    Series { name: "6.1", suite: "bookworm-security", begins: "6.1.", processors: 2, both_sets: false },
    Series { name: "6.12", suite: "trixie-security", begins: "6.12.", processors: 2, both_sets: true },
    Series { name: "6.18", suite: "trixie-backports", begins: "6.18.", processors: 2, both_sets: false },
    Series { name: "newest", suite: "trixie-backports", begins: "", processors: 2, both_sets: false },
];

/// The kind of kernel: small, and with all that is needed.
const FLAVOUR: &str = "-cloud-amd64";

/// Lists of packages older than this are fetched again.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// Where kernels are kept.
pub(super) fn cache() -> Result<PathBuf> {
    let home = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    Ok(home.context("neither XDG_CACHE_HOME nor HOME is set")?.join("ipctrace-kernels"))
}

/// The kernel of a series, ready to boot; fetched if it is not there.
///
/// # Errors
/// Why it cannot be had.
pub(super) fn kernel(series: &Series) -> Result<image::Kernel> {
    let images = cache()?.join("images");
    fs::create_dir_all(&images).with_context(|| format!("making {}", images.display()))?;
    let listed = Archive::open(series).and_then(|archive| Ok((archive.newest(series)?, archive)));
    let (version, archive) = match listed {
        Ok(found) => found,
        // Without network one that was fetched before is as good.
        Err(error) => match newest(&kept(&images)?, series.begins) {
            Some(version) => return image::Kernel::open(&images.join(version)),
            None => return Err(error),
        },
    };
    let folder = images.join(&version);
    if !folder.join(image::READY).exists() {
        eprintln!("xtask: fetching the kernel {version} from {} {}", archive.address, series.suite);
        let scratch = images.join(format!(".new-{}", std::process::id()));
        // Left by one that was interrupted, if at all.
        let _ = fs::remove_dir_all(&scratch);
        fs::create_dir_all(&scratch)?;
        let made = archive.unpack(&version, &scratch).and_then(|()| image::make(&scratch, &version));
        if let Err(error) = made {
            let _ = fs::remove_dir_all(&scratch);
            return Err(error);
        }
        let _ = fs::remove_dir_all(&folder);
        fs::rename(&scratch, &folder)?;
    }
    image::Kernel::open(&folder)
}

/// Versions that were fetched before.
fn kept(images: &Path) -> Result<Vec<String>> {
    let names = fs::read_dir(images)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| images.join(name).join(image::READY).exists()).collect())
}

/// The newest of the versions that begin so.
fn newest(versions: &[String], begins: &str) -> Option<String> {
    versions
        .iter()
        .filter(|version| version.starts_with(begins))
        .max_by_key(|version| numbers(version))
        .cloned()
}

/// The numbers in a version, in order: `6.12.118+deb13` comes after `6.12.98+deb13`.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

/// A suite of the archive, with lists of packages of its own.
struct Archive {
    options: Vec<OsString>,
    address: String,
}

impl Archive {
    fn open(series: &Series) -> Result<Archive> {
        let security = series.suite.ends_with("-security");
        let targets = read(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(CODENAME)",
            "Created-By: Packages",
        ]))
        .context("asking apt for its archives")?;
        let address = targets
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(address, suite)| address.contains("debian") && suite.ends_with("-security") == security)
            .map(|(address, _)| address.trim_end_matches('/').to_owned())
            .context("apt is not configured with an archive of Debian's")?;
        let folder = cache()?.join("lists").join(series.suite);
        for part in ["lists/partial", "cache/archives/partial", "empty"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let sources = folder.join("archive.sources");
        fs::write(
            &sources,
            format!(
                "Types: deb\nURIs: {address}\nSuites: {}\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
                series.suite
            ),
        )?;
        let mut options = Vec::new();
        for (name, value) in [
            ("Dir::Etc::sourcelist", sources.as_os_str()),
            ("Dir::Etc::sourceparts", folder.join("empty").as_os_str()),
            ("Dir::State::Lists", folder.join("lists").as_os_str()),
            ("Dir::Cache", folder.join("cache").as_os_str()),
            ("Dir::State::status", "/dev/null".as_ref()),
            ("APT::Sandbox::User", "root".as_ref()),
            ("APT::Architecture", "amd64".as_ref()),
        ] {
            let mut option = OsString::from(format!("{name}="));
            option.push(value);
            options.extend([OsString::from("-o"), option]);
        }
        let archive = Archive { options, address };
        if !is_fresh(&folder.join("lists")) {
            let mut update = archive.apt("apt-get");
            read(update.args([
                "-qq",
                "-o",
                "Acquire::Retries=2",
                "-o",
                "Acquire::http::Timeout=30",
                "update",
            ]))
            .with_context(|| format!("{} cannot be reached", archive.address))?;
        }
        Ok(archive)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// The newest version of a series.
    fn newest(&self, series: &Series) -> Result<String> {
        let names = read(self.apt("apt-cache").args(["pkgnames", "linux-image-"]))?;
        let versions: Vec<String> = names
            .lines()
            .filter_map(|name| name.strip_prefix("linux-image-"))
            .filter(|version| {
                version.ends_with(FLAVOUR) && version.starts_with(|first: char| first.is_ascii_digit())
            })
            // Names of packages that only depend on the newest have two numbers: 6.12-cloud-amd64.
            .filter(|version| {
                version.split('-').next().is_some_and(|number| number.matches('.').count() >= 2)
            })
            .map(str::to_owned)
            .collect();
        newest(&versions, series.begins)
            .with_context(|| format!("{} {} has no kernel {}", self.address, series.suite, series.name))
    }

    /// Unpacks a kernel and its modules.
    fn unpack(&self, version: &str, folder: &Path) -> Result<()> {
        let image = format!("linux-image-{version}");
        let description = read(self.apt("apt-cache").args(["show", &image]))?;
        let mut packages = vec![image];
        // Newer packages have the kernel and its modules in packages of their own.
        let depends = description.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
        for package in depends.split(", ").filter_map(|one| one.split(' ').next()) {
            if package.starts_with("linux-binary-") || package.starts_with("linux-modules-") {
                packages.push(package.to_owned());
            }
        }
        run(self.apt("apt-get").arg("-qq").arg("download").args(&packages).current_dir(folder))?;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                run(Command::new("dpkg").arg("-x").arg(&path).arg(folder.join("root")))?;
                fs::remove_file(&path)?;
            }
        }
        if !folder.join("root").exists() {
            bail!("the packages of {version} hold nothing");
        }
        Ok(())
    }
}

/// Whether there are lists of packages that are new enough.
fn is_fresh(lists: &Path) -> bool {
    let Ok(entries) = fs::read_dir(lists) else { return false };
    entries.filter_map(|entry| entry.ok()).any(|entry| {
        let fresh = entry
            .metadata()
            .and_then(|data| data.modified())
            .is_ok_and(|time| SystemTime::now().duration_since(time).unwrap_or_default() < FRESH);
        fresh && entry.file_name().to_string_lossy().contains("Packages")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        let versions = ["6.12.98+deb13-cloud-amd64", "6.12.118+deb13-cloud-amd64", "7.3.4+deb13-cloud-amd64"];
        let versions = versions.map(str::to_owned);
        assert_eq!(newest(&versions, "6.12.").as_deref(), Some("6.12.118+deb13-cloud-amd64"));
        assert_eq!(newest(&versions, "").as_deref(), Some("7.3.4+deb13-cloud-amd64"));
        assert_eq!(newest(&versions, "5.10."), None);
    }
}
