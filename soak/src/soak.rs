//! A run from the first manifest to the report.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use wasmgate_testkit::peers::process::wait_until;

use crate::change::change;
use crate::client::EXCHANGE_TIME_MAX;
use crate::kind::Kind;
use crate::measure::watch;
use crate::report::Report;
use crate::scene::{Error, Scene};
use crate::work::{World, client};

/// The gateway may take this long to forget the last request.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Debug)]
pub struct Soak {
    /// The gateway's binary.
    pub wasmgate: PathBuf,
    /// The header-authorization plug-in as the repository has it.
    pub plugin: PathBuf,
    /// How long the load lasts.
    pub duration: Duration,
}

impl Soak {
    /// Runs it.
    ///
    /// # Errors
    /// When the load could not begin. What goes wrong under load is in the report.
    pub fn run(&self) -> Result<Report, Error> {
        // Clients, endpoints and registry share two threads: the gateway has two workers of its own.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (scene, world) = Scene::start(&runtime, &self.wasmgate, &self.plugin)?;
        let (scene, world) = (Arc::new(scene), Arc::new(world));
        let began = Instant::now();
        let pid = scene.gateway.child().pid();
        let (samples, changes) = runtime.block_on(async {
            let samples = tokio::spawn(watch(pid, Arc::clone(&world)));
            let changes = tokio::spawn(change(Arc::clone(&scene), Arc::clone(&world)));
            let mut clients = JoinSet::new();
            for kind in Kind::ALL {
                for _ in 0..kind.clients() {
                    clients.spawn(client(kind, Arc::clone(&world)));
                }
            }
            tokio::time::sleep(self.duration).await;
            world.over.store(true, Ordering::Relaxed);
            finish(clients, &world).await;
            Ok::<_, Error>((samples.await?, changes.await?))
        })?;
        let lasted = began.elapsed();
        look_back(&scene, &world);
        // Every client is gone, and with them whoever else had a hold of it.
        match Arc::into_inner(scene) {
            Some(mut scene) => match scene.gateway.terminate() {
                Ok(status) if status.success() => {}
                Ok(status) => world.tally.fail("the gateway's end", &status.to_string()),
                Err(e) => world.tally.fail("the gateway's end", &e.to_string()),
            },
            None => world.tally.fail("the load", "it still holds the gateway after its end"),
        }
        let (failures, told) = world.tally.failures();
        Ok(Report { lasted, kinds: world.tally.kinds(), failures, told, samples, changes })
    }
}

/// Waits for the exchanges that are under way.
async fn finish(mut clients: JoinSet<()>, world: &World) {
    let all = async {
        while let Some(ended) = clients.join_next().await {
            if let Err(e) = ended {
                world.tally.fail("a client", &e.to_string());
            }
        }
    };
    // Every exchange has a limit of its own; one may need several steps.
    if tokio::time::timeout(EXCHANGE_TIME_MAX * 4, all).await.is_err() {
        world.tally.fail("the load", "there are clients that do not end");
    }
}

/// What the gateway says of it afterwards.
fn look_back(scene: &Scene, world: &World) {
    let idle = wait_until(Instant::now() + SETTLE_TIME_MAX, || {
        let stats = scene.gateway.admin_get("/stats").ok()?.text();
        stats.contains("http.downstream_rq_active: 0\n").then_some(())
    });
    if idle.is_none() {
        world.tally.fail("the gateway", "requests are still active though every client has left");
    }
    if let Some(line) = scene.gateway.log().lines().find(|l| l.contains("panicked")) {
        world.tally.fail("the gateway", line);
    }
}
