//! A folder for one workload.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::unistd::mkdtemp;

/// A new folder that only its owner can enter. It goes, with all that is in it, when its maker drops it; a child that was
/// forked meanwhile leaves it alone.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    maker: u32,
}

impl Folder {
    /// Makes one where temporary files belong.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<Folder> {
        let template = std::env::temp_dir().join("ipctrace-demo-XXXXXX");
        let path = mkdtemp(&template).with_context(|| format!("making {}", template.display()))?;
        Ok(Folder { path, maker: std::process::id() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::process::id() == self.maker
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            log::warn!("removing {}: {error}", self.path.display());
        }
    }
}
