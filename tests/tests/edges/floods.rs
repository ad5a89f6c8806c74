//! Floods by strangers, on each proxy within the memory, the processes and the open files that its compose file gives it.

use std::io::Write as _;
use std::time::{Duration, Instant};

use tests::control_group::ControlGroup;
use tests::flood::{Flood, Kind};
use tests::{Edge, Setup, Tier};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::world::World;

each_edge!(a100_heads_that_never_end_do_not_end_the_edge, a100_bodies_that_stall_do_not_end_the_edge,);

/// One flood at a time: two would be more than the machine of a test has, and measure each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Requests that have to be served in the middle of a flood.
const HONEST: usize = 5;

/// How long one of them may take. The machine has few processors, and the flood wants them, too.
const PATIENCE: Duration = Duration::from_secs(60);

/// By when memory has to be back after a flood: within a minute, on a machine that has nothing else to do.
const BACK: Duration = Duration::from_secs(300);

pub(crate) async fn a100_heads_that_never_end_do_not_end_the_edge(edge: Edge) {
    // What killed every edge within seconds, and the most that a head may have now.
    let kinds = [(Kind::Head(47_000), 4200), (Kind::Head(16_000), 700)];
    survives(edge, "a100_heads_that_never_end_do_not_end_the_edge", &kinds).await;
}

pub(crate) async fn a100_bodies_that_stall_do_not_end_the_edge(edge: Edge) {
    let body = |path: &str, length| Kind::Body(path.to_owned(), length);
    let kinds =
        [(body("/token", 55_000), 2000), (body("/token", 10_000), 1000), (body("/mcp", 55_000), 2000)];
    survives(edge, "a100_bodies_that_stall_do_not_end_the_edge", &kinds).await;
}

async fn survives(edge: Edge, name: &str, kinds: &[(Kind, usize)]) {
    let bounds = edge.container().bounds();
    if let Err(why) = ControlGroup::make(bounds) {
        let told = format!("SKIPPED {name}: {why:#}\n");
        std::io::stderr().write_all(told.as_bytes()).unwrap();
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().await;
    let mut world = World::of(Setup::as_shipped().through(edge).within(Tier::Edge, bounds)).await;
    // What it holds when it has done some work, which is more than after its start.
    work(&world).await;
    let idle = world.stack.group(Tier::Edge).held().unwrap();

    let started = |(kind, connections): &(Kind, usize)| {
        Flood::stalled(world.stack.port, &world.host, kind, *connections, 1)
    };
    let floods: Vec<Flood> = kinds.iter().map(started).collect();
    let wanted: usize = kinds.iter().map(|(_, connections)| connections).sum();
    let deadline = Instant::now() + PATIENCE;
    while floods.iter().map(Flood::opened).sum::<usize>() < wanted && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let opened: usize = floods.iter().map(Flood::opened).sum();
    let hint = "Is the limit of open files (ulimit -n) below that?";
    assert!(opened >= wanted, "{opened} of {wanted} connections were opened. {hint}\n{}", world.stack.logs());
    let mut refused = 0;
    for _ in 0..HONEST {
        refused += until_served(&world).await;
    }
    let most = world.stack.group(Tier::Edge).held().unwrap();
    drop(floods);

    // A collector stops where there is no need. Envoy's allocator keeps more than others, for the next time.
    let kept = (2 * idle).max(bounds.memory / if edge.name() == "envoy" { 4 } else { 8 });
    let (end, mut held) = (Instant::now(), most);
    while held > kept && end.elapsed() < BACK {
        // Collectors of garbage go by what is allocated: a proxy that nobody asks anything keeps it for longer.
        work(&world).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        held = world.stack.group(Tier::Edge).held().unwrap();
    }
    // Kernels before 5.19 do not tell the most of a group of version 2.
    let (killed, peak) = (
        world.stack.group(Tier::Edge).killed().unwrap(),
        world.stack.group(Tier::Edge).peak().unwrap_or_default(),
    );
    let mib = |bytes: u64| bytes >> 20;
    let figures = format!(
        "{edge}: {} MiB idle, {} in the flood, {} counted by the kernel at most, {} of {} after {:.0} s; {HONEST} requests served, {refused} refused before",
        mib(idle),
        mib(most),
        mib(peak),
        mib(held),
        mib(bounds.memory),
        end.elapsed().as_secs_f32()
    );
    std::io::stderr().write_all(format!("FIGURE {name}, {figures}\n").as_bytes()).unwrap();
    assert_eq!(killed, 0, "{figures}");
    assert!(world.stack.runs(Tier::Edge), "{figures}\n{}", world.stack.logs());
    assert!(held <= kept, "memory does not come back: {figures}");
}

/// An honest request, again and again where it is told that there is no time for it now: a check may wait three seconds, and
/// the machine of a test has auth-service and the strangers on it, too. Answers how often that was so.
async fn until_served(world: &World) -> usize {
    let deadline = Instant::now() + PATIENCE;
    let mut refused = 0;
    loop {
        let request = world.stack.http.get(&world.stack.mcp_url).bearer_auth(&world.token);
        let answer = request.timeout(PATIENCE).send().await;
        match answer.as_ref().map(|answer| answer.status().as_u16()) {
            Ok(200) => return refused,
            // No time for the check, or for the service behind it.
            Ok(500 | 502..=504) if Instant::now() < deadline => refused += 1,
            _ => panic!("{answer:?}\n{}", world.stack.logs()),
        }
    }
}

/// Honest requests, many at a time.
async fn work(world: &World) {
    let mut requests = JoinSet::new();
    for _ in 0..200 {
        let request = world.stack.http.get(&world.stack.mcp_url).bearer_auth(&world.token);
        requests.spawn(async move {
            let answer = request.timeout(PATIENCE).send().await?.error_for_status()?;
            answer.bytes().await
        });
    }
    assert!(requests.join_all().await.iter().any(Result::is_ok), "none of 200 requests was served");
    world.upstream.take_heads();
}
