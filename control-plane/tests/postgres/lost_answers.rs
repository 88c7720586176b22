//! A connection that breaks around a commit: what became of it is found out before anything follows from it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use gantry_cluster::Cluster;
use gantry_control_plane::store::Store;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::{set, settings};

/// What happens to the next commit.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Fate {
    Passes,
    /// It does not reach the server.
    IsLost,
    /// It reaches the server, whose answer does not come back.
    IsDoneUnheard,
}

/// Stands between us and the server.
struct Between {
    folder: tempfile::TempDir,
    fate: Arc<AtomicU8>,
    _listens: JoinSet<()>,
}

impl Between {
    fn new(cluster: &Cluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let server = cluster.folder().join(".s.PGSQL.5432");
        let fate = Arc::new(AtomicU8::new(Fate::Passes as u8));
        let mut listens = JoinSet::new();
        let ours = Arc::clone(&fate);
        listens.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (server, fate) = (server.clone(), Arc::clone(&ours));
                connections.spawn(async move { carry(client, &server, &fate).await });
            }
        });
        Self { folder, fate, _listens: listens }
    }

    async fn store(&self) -> Store {
        let socket = self.folder.path().to_str().unwrap().replace('/', "%2F");
        let url = format!("postgres://gantry@{socket}/gantry");
        Store::connect(&url.parse().unwrap()).await.unwrap()
    }
}

/// Carries bytes both ways until a commit has met its fate.
async fn carry(mut client: UnixStream, server: &Path, fate: &AtomicU8) {
    let Ok(mut server) = UnixStream::connect(server).await else { return };
    let (mut asked, mut answered) = (vec![0; 65536], vec![0; 65536]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(read @ 1..) = read else { return };
                let is_commit = asked[..read].windows(6).any(|it| it == b"COMMIT");
                let met = if is_commit { fate.load(Ordering::SeqCst) } else { Fate::Passes as u8 };
                if met == Fate::IsLost as u8 {
                    fate.store(Fate::Passes as u8, Ordering::SeqCst);
                    return;
                }
                server.write_all(&asked[..read]).await.unwrap();
                if met == Fate::IsDoneUnheard as u8 {
                    let _ = server.read(&mut answered).await.unwrap();
                    fate.store(Fate::Passes as u8, Ordering::SeqCst);
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(read @ 1..) = read else { return };
                if client.write_all(&answered[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_done_if_it_was_and_not_if_it_was_not() {
    let cluster = Cluster::start(&[]);
    let between = Between::new(&cluster);
    let store = between.store().await;
    between.fate.store(Fate::IsDoneUnheard as u8, Ordering::SeqCst);
    set(&store, "done").await.unwrap();
    between.fate.store(Fate::IsLost as u8, Ordering::SeqCst);
    set(&store, "lost").await.unwrap_err();
    set(&store, "next").await.unwrap();
    assert_eq!(settings(&store).await, ["done", "next"]);
}

/// While the server is away too: the answer comes after it is back, and nobody writes before.
#[tokio::test]
async fn what_became_of_a_commit_is_found_out_after_the_server_is_back() {
    let mut cluster = Cluster::start(&[]);
    let between = Between::new(&cluster);
    let store = between.store().await;
    let mut transaction = store.begin().await.unwrap();
    let insert = "INSERT INTO settings (name, value) VALUES ('done', 'x')";
    sqlx::query(insert).execute(&mut *transaction).await.unwrap();
    between.fate.store(Fate::IsDoneUnheard as u8, Ordering::SeqCst);
    let mut committing = Box::pin(transaction.commit());
    // The answer is swallowed, and the new connection is refused from here on.
    while between.fate.load(Ordering::SeqCst) != Fate::Passes as u8 {
        let nothing_yet = futures::poll!(&mut committing);
        assert!(nothing_yet.is_pending());
        tokio::task::yield_now().await;
    }
    cluster.stop(gantry_cluster::Stop::Immediate);
    let mut waiting = Box::pin(set(&store, "next"));
    assert!(futures::poll!(&mut committing).is_pending());
    assert!(futures::poll!(&mut waiting).is_pending());
    cluster.start_again();
    committing.await.unwrap();
    waiting.await.unwrap();
    assert_eq!(settings(&store).await, ["done", "next"]);
}

/// PostgreSQL gives numbers of transactions out again after a crash: neither is there an answer to wait for in vain, nor is
/// somebody else's transaction taken for ours.
#[tokio::test]
async fn a_commit_that_a_crash_took_along_is_known_not_to_be_done() {
    let mut cluster = Cluster::start(&[]);
    let between = Between::new(&cluster);
    let store = between.store().await;
    set(&store, "a").await.unwrap();
    for others in [0, 1, 64] {
        let mut transaction = store.begin().await.unwrap();
        let insert = "INSERT INTO settings (name, value) VALUES ('gone', 'x')";
        sqlx::query(insert).execute(&mut *transaction).await.unwrap();
        between.fate.store(Fate::IsLost as u8, Ordering::SeqCst);
        let mut committing = Box::pin(transaction.commit());
        while between.fate.load(Ordering::SeqCst) != Fate::Passes as u8 {
            assert!(futures::poll!(&mut committing).is_pending());
            tokio::task::yield_now().await;
        }
        cluster.stop(gantry_cluster::Stop::Immediate);
        cluster.start_again();
        for _ in 0..others {
            let _ = cluster.psql("gantry", "SELECT pg_current_xact_id()");
        }
        committing.await.unwrap_err();
    }
    set(&store, "b").await.unwrap();
    assert_eq!(settings(&store).await, ["a", "b"]);
}
