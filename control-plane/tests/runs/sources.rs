use bytes::Bytes;
use gantry_control_plane::objects::Objects as _;
use gantry_control_plane::sources::NewSource;
use gantry_protocol::{Digest, SealedBytes};

use crate::world::{World, pool_key};

fn source(key: &str, content: &[u8]) -> NewSource {
    NewSource {
        key: key.to_owned(),
        sha256: Digest::of(content).to_string(),
        size: content.len() as u64,
        author: "ann".into(),
        message: "next".into(),
    }
}

/// Whoever reads the object store must not read what a stack is made of.
#[tokio::test]
async fn a_source_that_was_uploaded_in_the_clear_is_kept_sealed_only() {
    let world = World::new().await;
    let (stack, objects) = (&world.stack, &world.objects);
    let upload = world.control_plane.stacks.source_upload(stack).await.unwrap();
    let clear = b"an archive in the clear";
    objects.put(&upload.key, Bytes::from_static(clear)).await.unwrap();
    let mut wrong = source(&upload.key, clear);
    wrong.sha256 = Digest::of(b"another").to_string();
    let refused = world.control_plane.stacks.set_source("ann", stack, wrong).await.unwrap_err();
    assert!(refused.to_string().contains("another hash"), "{refused}");
    for _ in 0..2 {
        let new = source(&upload.key, clear);
        let kept =
            world.control_plane.stacks.set_source("ann", stack, new).await.unwrap().source.unwrap();
        assert_eq!(objects.size(&upload.key).await.unwrap(), None);
        let file = objects.get(&kept.key, 1 << 20).await.unwrap();
        assert_eq!((file.len() as u64, Digest::of(&file).to_string()), (kept.size, kept.sha256));
        let opened = SealedBytes::from_file(&file).unwrap().open(&[pool_key()]).unwrap();
        assert_eq!(opened.as_slice(), clear);
    }
    let listed = objects.list("source/", None, 100).await.unwrap();
    assert_eq!(listed.len(), 2, "the first one and this one: {listed:?}");
}

#[tokio::test]
async fn a_source_that_comes_sealed_is_kept_as_it_is() {
    let world = World::new().await;
    let (stack, objects) = (&world.stack, &world.objects);
    let recipient = gantry_protocol::Recipient::new(pool_key().public().clone()).unwrap();
    let sealed = gantry_protocol::seal_bytes(&[recipient], b"archive").unwrap().to_file();
    let upload = world.control_plane.stacks.source_upload(stack).await.unwrap();
    objects.put(&upload.key, sealed.clone().into()).await.unwrap();
    let new = source(&upload.key, &sealed);
    let kept =
        world.control_plane.stacks.set_source("ann", stack, new).await.unwrap().source.unwrap();
    assert_eq!((kept.key, kept.size), (upload.key, sealed.len() as u64));
}
