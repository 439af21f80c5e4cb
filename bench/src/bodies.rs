//! A gigabyte down and a gigabyte up through a proxy without a plug-in.

use std::io;
use std::net::SocketAddr;

use wasmgate_testkit::peers::process::rss_mib;

use crate::bench::Bench;
use crate::case::Proxy;
use crate::interrupt;
use crate::part::Part;
use crate::reading::{Figure, Reading, take};
use crate::stage::Stage;
use crate::transfer::{self, Source};

pub(crate) const DOWN: &str = "1 GiB down, MiB per CPU second";
pub(crate) const UP: &str = "1 GiB up, MiB per CPU second";
pub(crate) const GROWTH_DOWN: &str = "1 GiB down, growth of RSS";
pub(crate) const GROWTH_UP: &str = "1 GiB up, growth of RSS";

/// What is sent.
const BODY_BYTES: u64 = 1 << 30;
const BODY_MIB: f64 = 1024.0;

/// A way of sending it.
#[derive(Debug, Clone, Copy)]
enum Direction {
    Down,
    Up,
}

impl Direction {
    fn send(
        self,
        address: SocketAddr,
        bytes: u64,
        each: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut stream = transfer::connect(address)?;
        let sent = match self {
            Self::Down => transfer::download(&mut stream, bytes, each),
            Self::Up => transfer::upload(&mut stream, bytes, each),
        };
        sent.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                io::Error::other(format!("{self:?} of {bytes} bytes: nothing moves"))
            }
            _ => error,
        })
    }
}

/// Sends it both ways through every proxy.
pub(crate) fn measure(bench: &Bench) -> Vec<Reading> {
    let proxies = bench.those_of(&[Proxy::Nginx, Proxy::Envoy, Proxy::Wasmgate]);
    let sent = |direction| {
        let one_way = |proxy| send(bench, proxy, direction);
        take(Part::Bodies, proxies.clone(), one_way)
    };
    [Direction::Down, Direction::Up].into_iter().flat_map(sent).collect()
}

fn send(bench: &Bench, proxy: Proxy, direction: Direction) -> io::Result<Vec<Figure>> {
    let source = Source::start()?;
    let running = Stage::new(source.address()).start(bench, proxy)?;
    let address = running.listener();
    direction.send(address, 1, &mut interrupt::check)?;
    let pids = running.pids();
    let idle_mib = rss_mib(&pids)?;
    let mut peak_mib = idle_mib;
    let mut look = || {
        peak_mib = peak_mib.max(rss_mib(&pids)?);
        interrupt::check()
    };
    let window = bench.watch(&running, || direction.send(address, BODY_BYTES, &mut look))?;
    let (cost, growth) = match direction {
        Direction::Down => (DOWN, GROWTH_DOWN),
        Direction::Up => (UP, GROWTH_UP),
    };
    let share_of_others = Some(window.share_of_others);
    let (speed, grown_mib) = (BODY_MIB / window.cpu.as_secs_f64(), peak_mib - idle_mib);
    Ok(vec![
        Figure { what: cost, unit: "MiB/s", value: speed, share_of_others },
        Figure { what: growth, unit: "MiB", value: grown_mib, share_of_others: None },
    ])
}
