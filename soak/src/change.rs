//! The changes while the load goes on: each is written like an editor writes, and has to be seen by clients.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::{BodyExt as _, Empty};
use tokio::time::MissedTickBehavior;
use wasmgate_testkit::tls::der;

use crate::client::{Connection, Target};
use crate::scene::{DENIALS, ENDPOINTS, HOST, Scene, added_route, route};
use crate::work::{World, without_tickets};

/// How often the configuration changes.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(1);
/// One plug-in swap for so many reloads.
pub const RELOADS_PER_SWAP: usize = 10;
/// How long a change may take until clients see it. It takes a fraction of a second; a busy machine is slow.
pub const CHANGE_TIME_MAX: Duration = Duration::from_secs(20);
/// How often it is looked whether it has.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A route leads to another endpoint.
    RouteMoved,
    /// There is one route more.
    RouteAdded,
    /// And gone it is.
    RouteRemoved,
    /// The listener's certificate is another one.
    Certificate,
    /// The plug-in's version is another one.
    Swap,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RouteMoved => "route moved",
            Self::RouteAdded => "route added",
            Self::RouteRemoved => "route removed",
            Self::Certificate => "certificate replaced",
            Self::Swap => "plug-in swapped",
        })
    }
}

/// How long it took until clients saw a change, each time.
pub type ChangeTimes = BTreeMap<Change, Vec<Duration>>;

/// Changes the configuration until the time is over.
pub async fn change(scene: Arc<Scene>, world: Arc<World>) -> ChangeTimes {
    let mut times = ChangeTimes::new();
    let mut ticks = tokio::time::interval(RELOAD_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let turns = [Change::RouteMoved, Change::RouteAdded, Change::Certificate, Change::RouteRemoved];
    let mut swaps = tokio::task::JoinSet::new();
    for (turn, change) in turns.into_iter().cycle().enumerate() {
        ticks.tick().await;
        if world.is_over() {
            break;
        }
        // A swap takes longer, and reloads go on meanwhile.
        if turn % RELOADS_PER_SWAP == RELOADS_PER_SWAP / 2 && swaps.is_empty() {
            let version = 1 - (turn / RELOADS_PER_SWAP) % 2;
            let (scene, world) = (Arc::clone(&scene), Arc::clone(&world));
            swaps.spawn(async move { timed(Change::Swap, version, &scene, &world).await });
        }
        if let Some(took) = timed(change, turn / 4 % 2, &scene, &world).await {
            times.entry(change).or_default().push(took);
        }
        while let Some(Ok(took)) = swaps.try_join_next() {
            times.entry(Change::Swap).or_default().extend(took);
        }
    }
    while let Some(Ok(took)) = swaps.join_next().await {
        times.entry(Change::Swap).or_default().extend(took);
    }
    times
}

/// Makes a change and waits until it is seen. A failure is noted and gives `None`.
async fn timed(change: Change, which: usize, scene: &Scene, world: &World) -> Option<Duration> {
    let began = Instant::now();
    match tokio::time::timeout(CHANGE_TIME_MAX, make(change, which, scene, world)).await {
        Ok(Ok(())) => return Some(began.elapsed()),
        Ok(Err(what)) => world.tally.fail(&change.to_string(), &what),
        Err(_) => world.tally.fail(&change.to_string(), "clients do not see it"),
    }
    None
}

async fn make(change: Change, which: usize, scene: &Scene, world: &World) -> Result<(), String> {
    let write = |name: &str, text: &str| scene.gateway.write(name, text).map_err(|e| e.to_string());
    let [one, two] = ENDPOINTS;
    match change {
        Change::RouteMoved => {
            let to = if which == 0 { two } else { one };
            write("route.yaml", &route(to))?;
            until_answer(world, "/moving", true, to).await
        }
        Change::RouteAdded => {
            write("added.yaml", &added_route())?;
            until_answer(world, "/added", true, two).await
        }
        Change::RouteRemoved => {
            scene.gateway.remove("added.yaml").map_err(|e| e.to_string())?;
            until_answer(world, "/added", true, one).await
        }
        Change::Certificate => {
            let identity = scene.certificate().map_err(|e| e.to_string())?;
            let wanted = der(&identity.certificate).map_err(|e| e.to_string())?;
            write("cert.yaml", &identity.secret("cert", &[]))?;
            let target = Target { tls: world.tls.tls.as_deref().map(without_tickets), ..world.tls.clone() };
            while Connection::open(&target).await?.certificate != wanted {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            Ok(())
        }
        Change::Swap => {
            write("plugin.yaml", &scene.plugin(which))?;
            until_answer(world, "/", false, DENIALS.get(which).copied().unwrap_or_default()).await
        }
    }
}

async fn until_answer(world: &World, path: &str, allow: bool, wanted: &str) -> Result<(), String> {
    loop {
        let mut request = Request::get(path).header("host", HOST);
        if allow {
            request = request.header("allow", "true");
        }
        let body = Empty::new().map_err(|never| match never {}).boxed();
        let request = request.body(body).map_err(|e| e.to_string())?;
        let answer = Connection::open(&world.plain).await?.exchange(request).await?;
        if answer.body == wanted {
            return Ok(());
        }
        let status = if allow { 200 } else { 403 };
        if answer.status != status {
            return Err(format!("{path} is answered with {} {:?}", answer.status, answer.body));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
