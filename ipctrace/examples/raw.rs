use ipctrace::*;
fn main() {
    let t = std::time::Instant::now();
    let facts = kernel::Facts::gather();
    eprintln!("facts {:?}", t.elapsed());
    let plan = kernel::Plan::new(&facts, ipctrace_common::Mechanism::ALL, std::process::id(), 0).unwrap();
    for (m, s) in &plan.mechanisms {
        eprintln!("{} {:?}", m.name(), s);
    }
    let object = std::fs::read(std::env::args().nth(1).unwrap()).unwrap();
    let mut attached = match attach::attach(&object, &plan, 16 << 20) {
        Ok(a) => a,
        Err(e) => {
            eprintln!("{e:#}");
            eprintln!("{:?}", e);
            return;
        }
    };
    eprintln!("attached {:?}", t.elapsed());
    let end = std::time::Instant::now() + std::time::Duration::from_secs(3);
    while std::time::Instant::now() < end {
        while let Some(item) = attached.ring.next() {
            let r = decode::decode(bytes::Bytes::copy_from_slice(&item));
            match r {
                Ok(decode::Record::Op(o)) => println!(
                    "{} {} m{} f{:x} key {:x}/{:x} bytes {} before {} pos {:x}->{:x}",
                    o.fixed.task.tgid,
                    String::from_utf8_lossy(&o.fixed.task.comm),
                    o.fixed.header.mechanism,
                    o.fixed.header.flags,
                    o.fixed.key.id,
                    o.fixed.key.space,
                    o.fixed.bytes,
                    o.fixed.before,
                    o.fixed.pos_enter,
                    o.fixed.pos_exit
                ),
                r => println!("{r:?}"),
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    eprintln!("{:?}", attached.losses());
}
