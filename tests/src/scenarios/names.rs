//! Names as they are, whatever bytes they are made of.

use std::os::fd::AsRawFd;

use anyhow::Result;
use ipctrace::demo::{Stage, stage};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, bind, recv, sendto, socket};

use super::Scenario;
use crate::scenarios::ends::{connect_to, listen_at};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "abstract_name_of_any_bytes", play: any_bytes },
    Scenario { name: "socket_at_a_path", play: path },
];

/// The name that the scenario uses: NULs and bytes that are no UTF-8 in it.
const ANY_BYTES: &[u8] = b"ipctrace\0\xff\xfe\nname";

fn any_bytes(stage: &Stage) -> Result<()> {
    let address = UnixAddr::new_abstract(ANY_BYTES)?;
    let server = stage.child("server", |stage| {
        let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        bind(socket.as_raw_fd(), &address)?;
        stage.raise(0);
        let mut buffer = [0; 100];
        let len = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        stage.heard_message("unix_dgram", &buffer[..len])
    })?;
    let client = stage.child("client", |stage| {
        stage.wait_for(0, 1)?;
        let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        sendto(socket.as_raw_fd(), &stage.marked(9), &address, MsgFlags::empty())?;
        Ok(())
    })?;
    stage.reap(&[server, client])
}

fn path(stage: &Stage) -> Result<()> {
    let path = std::env::temp_dir().join(format!("ipctrace-path-{}", std::process::id()));
    let address = UnixAddr::new(&path)?;
    let server = stage.child("server", |stage| {
        let listener = listen_at(&address)?;
        stage.raise(0);
        let connection = stage::accept_one(&listener)?;
        let bytes = stage::read_exactly(&connection, 12)?;
        stage.heard("unix_stream", None, &bytes)
    })?;
    stage.wait_for(0, 1)?;
    let client =
        stage.child("client", |stage| stage::write_all(&connect_to(&address)?, &stage.marked(12)))?;
    let outcome = stage.reap(&[server, client]);
    std::fs::remove_file(&path)?;
    outcome
}
