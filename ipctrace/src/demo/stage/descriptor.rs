//! What the processes of workloads do with descriptors.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Result, bail};

/// Reads in portions of `size` bytes until the end.
///
/// # Errors
/// Those of read(2).
pub fn read_to_end(descriptor: &OwnedFd, size: usize) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut portion = vec![0; size];
    loop {
        match nix::unistd::read(descriptor, &mut portion)? {
            0 => return Ok(all),
            count => all.extend_from_slice(&portion[..count]),
        }
    }
}

/// Writes everything.
///
/// # Errors
/// Those of write(2).
pub fn write_all(descriptor: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let count = nix::unistd::write(descriptor, bytes)?;
        bytes = &bytes[count..];
    }
    Ok(())
}

/// Closes a descriptor that a process has inherited and does not want, so that others see the end.
///
/// # Errors
/// If it is not open.
pub fn close(descriptor: &OwnedFd) -> Result<()> {
    // The OwnedFd is the parent's too, which closes it in its own process: this one ends with _exit.
    nix::unistd::close(descriptor.as_raw_fd())?;
    Ok(())
}

/// Reads `count` bytes.
///
/// # Errors
/// Those of read(2), or if the end comes before.
pub fn read_exactly(descriptor: &OwnedFd, count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    let mut done = 0;
    while done < count {
        match nix::unistd::read(descriptor, &mut bytes[done..])? {
            0 => bail!("the end came after {done} of {count} bytes"),
            more => done += more,
        }
    }
    Ok(bytes)
}

/// Takes the next connection.
///
/// # Errors
/// Those of accept(2).
pub fn accept_one(listener: &OwnedFd) -> Result<OwnedFd> {
    let connection = nix::sys::socket::accept(listener.as_raw_fd())?;
    // SAFETY: a new descriptor that belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(connection) })
}
