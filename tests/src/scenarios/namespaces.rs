//! Network namespaces for scenarios.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use ipctrace::demo::Stage;
use nix::sched::{CloneFlags, unshare};

/// Why scenarios with namespaces cannot be played here, if they cannot.
pub(super) fn missing() -> Option<&'static str> {
    let has_ip = Command::new("ip").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !has_ip.is_ok_and(|status| status.success()) {
        return Some("the command ip (iproute2) is not installed");
    }
    let try_it = ["-n", "ip", "link", "add", "type", "veth"];
    let made = Command::new("unshare").args(try_it).stdout(Stdio::null()).stderr(Stdio::null()).status();
    (!made.is_ok_and(|status| status.success())).then_some("the kernel has no network namespaces or no veth")
}

/// One end of a link between two namespaces.
#[derive(Clone, Copy)]
pub(super) struct Side(u8);

impl Side {
    /// Its address.
    pub(super) fn own(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, 1 + self.0)
    }

    /// The other's.
    pub(super) fn other(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, 2 - self.0)
    }
}

/// Runs `ip`.
pub(super) fn ip(stage: &Stage, arguments: &str) -> Result<()> {
    let status = Command::new("ip").args(arguments.split(' ')).status()?;
    stage.bereaved()?;
    ensure!(status.success(), "ip {arguments}: {status}");
    Ok(())
}

/// Puts this process into a namespace of its own, with a loopback and nothing else.
pub(super) fn apart(stage: &Stage) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    ip(stage, "link set lo up")
}

/// Flags that [`joined`] uses.
const APART: usize = 60;
const LINKED: usize = 61;
const UP: usize = 62;

/// Plays two parts, each in a namespace of its own, with a link between them.
pub(super) fn joined(
    stage: &Stage,
    server: impl FnOnce(&Stage, Side) -> Result<()>,
    client: impl FnOnce(&Stage, Side) -> Result<()>,
) -> Result<()> {
    let one = stage.child("server", |stage| {
        let side = Side(0);
        apart(stage)?;
        stage.raise(APART);
        stage.wait_for(LINKED, 1)?;
        up(stage, "ipctrace-a", side)?;
        server(stage, side)
    })?;
    stage.put(APART, one.as_raw() as u64);
    let two = stage.child("client", |stage| {
        let side = Side(1);
        apart(stage)?;
        stage.wait_for(APART, 1)?;
        let other = stage.get(APART);
        ip(stage, &format!("link add ipctrace-b type veth peer name ipctrace-a netns {other}"))?;
        stage.raise(LINKED);
        up(stage, "ipctrace-b", side)?;
        client(stage, side)
    })?;
    stage.reap(&[one, two])
}

/// Gives the link's end its address, and waits until the other has one too.
fn up(stage: &Stage, name: &str, side: Side) -> Result<()> {
    ip(stage, &format!("address add {}/24 dev {name}", side.own()))?;
    ip(stage, &format!("link set {name} up"))?;
    stage.raise(UP);
    stage.wait_for(UP, 2)
}
