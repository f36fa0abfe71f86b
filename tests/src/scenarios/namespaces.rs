//! Network namespaces for scenarios.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use ipctrace::demo::Stage;
use nix::sched::{CloneFlags, unshare};

/// Why scenarios with namespaces cannot be played here, if they cannot.
pub(super) fn missing(bridge: bool) -> Option<&'static str> {
    let has_ip = Command::new("ip").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !has_ip.is_ok_and(|status| status.success()) {
        return Some("the command ip (iproute2) is not installed");
    }
    let can_make = |kind| {
        let try_it = ["-n", "ip", "link", "add", "type", kind];
        let made = Command::new("unshare").args(try_it).stdout(Stdio::null()).stderr(Stdio::null()).status();
        made.is_ok_and(|status| status.success())
    };
    if !can_make("veth") {
        return Some("the kernel has no network namespaces or no veth");
    }
    (bridge && !can_make("bridge")).then_some("the kernel has no bridges")
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

/// Flags that [`joined`] and [`bridged`] use.
const APART: usize = 60;
const LINKED: usize = 61;
const UP: usize = 62;
/// Where the pid stands of the one that the others link to.
const PID: usize = 63;

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
        up(stage, "ipctrace-a", side.own(), 2)?;
        server(stage, side)
    })?;
    stage.put(PID, one.as_raw() as u64);
    let two = stage.child("client", |stage| {
        let side = Side(1);
        apart(stage)?;
        stage.wait_for(APART, 1)?;
        let other = stage.get(PID);
        ip(stage, &format!("link add ipctrace-b type veth peer name ipctrace-a netns {other}"))?;
        stage.raise(LINKED);
        up(stage, "ipctrace-b", side.own(), 2)?;
        client(stage, side)
    })?;
    stage.reap(&[one, two])
}

/// Gives a device its address, and waits until as many have one.
fn up(stage: &Stage, device: &str, address: Ipv4Addr, devices: u32) -> Result<()> {
    ip(stage, &format!("address add {address}/24 dev {device}"))?;
    ip(stage, &format!("link set {device} up"))?;
    stage.raise(UP);
    stage.wait_for(UP, devices)
}

/// Plays three parts, numbered, each in a namespace of its own: a host, which has a bridge, and two containers on it, as Docker
/// has it. The address of each.
pub(super) fn bridged(
    stage: &Stage,
    part: impl Fn(&Stage, usize, [Ipv4Addr; 3]) -> Result<()>,
) -> Result<()> {
    let addresses = [1, 2, 3].map(|last| Ipv4Addr::new(10, 77, 0, last));
    let mut children = Vec::new();
    for (number, name) in ["host", "container-1", "container-2"].into_iter().enumerate() {
        let child = stage.child(name, |stage| {
            apart(stage)?;
            let device = if number == 0 {
                ip(stage, "link add ipctrace-br type bridge")?;
                stage.raise(APART);
                stage.wait_for(LINKED, 2)?;
                for port in [1, 2] {
                    ip(stage, &format!("link set ipctrace-{port} master ipctrace-br up"))?;
                }
                "ipctrace-br"
            } else {
                stage.wait_for(APART, 1)?;
                let host = stage.get(PID);
                ip(
                    stage,
                    &format!("link add ipctrace-c type veth peer name ipctrace-{number} netns {host}"),
                )?;
                stage.raise(LINKED);
                "ipctrace-c"
            };
            up(stage, device, addresses[number], 3)?;
            part(stage, number, addresses)
        })?;
        if number == 0 {
            stage.put(PID, child.as_raw() as u64);
        }
        children.push(child);
    }
    stage.reap(&children)
}
