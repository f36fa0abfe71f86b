//! Channels by the ids that the trace gives them, found without it: by fstat(2).

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use nix::sys::stat::{fstat, major, minor};

/// The inode behind a descriptor.
///
/// # Errors
/// If it is not open.
pub fn inode(descriptor: impl AsFd) -> Result<u64> {
    Ok(fstat(descriptor)?.st_ino)
}

/// `@KIND:[NUMBER]`: what the trace appends to ids that count in this process's namespace of that kind, which is not the
/// tracer's.
///
/// # Errors
/// If /proc does not say in which namespace it is.
pub fn space(kind: &str) -> Result<String> {
    let link = std::fs::read_link(format!("/proc/self/ns/{kind}"))?;
    Ok(format!("@{}", link.display()))
}

/// `pipe:[INODE]`, as the trace names the pipe behind a descriptor.
///
/// # Errors
/// If it is not open.
pub fn pipe_id(descriptor: impl AsFd) -> Result<String> {
    Ok(format!("pipe:[{}]", inode(descriptor)?))
}

/// `fifo:[MAJOR:MINOR:INODE]`, as the trace names the FIFO behind a descriptor.
///
/// # Errors
/// If it is not open.
pub fn fifo_id(descriptor: impl AsFd) -> Result<String> {
    let status = fstat(descriptor)?;
    Ok(format!("fifo:[{}:{}:{}]", major(status.st_dev), minor(status.st_dev), status.st_ino))
}

/// `eventfd:NUMBER`, as the trace names the counter behind a descriptor.
///
/// # Errors
/// If it is not open, or the kernel (before 5.2) does not number counters.
pub fn eventfd_id(descriptor: impl AsFd) -> Result<String> {
    let path = format!("/proc/self/fdinfo/{}", descriptor.as_fd().as_raw_fd());
    let info = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let number = info.lines().find_map(|line| line.strip_prefix("eventfd-id:"));
    Ok(format!("eventfd:{}", number.context("an eventfd without a number")?.trim()))
}

/// What the trace calls that which goes from one socket to another, of which the inodes are given.
pub fn socket_id(from: u64, to: u64) -> String {
    format!("socket:[{from}]->socket:[{to}]")
}
