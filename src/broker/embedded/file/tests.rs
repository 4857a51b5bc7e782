//! What stands in the file, and what becomes of it.

use std::time::Duration;

use super::*;

fn open(path: &Path, limit_bytes: usize) -> (Log, Vec<Delivery>) {
    Log::open(path, &config::History { age: Duration::from_secs(60), limit_bytes }).unwrap()
}

fn triggers<const N: usize>(bodies: [&'static str; N]) -> [Entry; N] {
    bodies.map(|body| Entry { kind: Kind::Trigger, body: Bytes::from_static(body.as_bytes()) })
}

fn offsets(deliveries: &[Delivery]) -> Vec<u64> {
    let offset = |delivery: &Delivery| match delivery {
        Delivery::Trigger { offset, is_recalled: true, .. } | Delivery::Control { offset, is_recalled: true, .. } => {
            offset.unwrap()
        }
        Delivery::Epoch { offset, .. } => *offset,
        other => panic!("{other:?}"),
    };
    deliveries.iter().map(offset).collect()
}

#[test]
fn what_was_written_is_there_again_with_the_same_epochs_and_offsets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (mut log, first) = open(&path, 1000);
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap()) & 0o777, 0o600);
    assert_eq!(offsets(&first), [0]);
    log.append(&triggers(["a", "b"])).unwrap();
    log.append(&[Entry { kind: Kind::Control, body: Bytes::from_static(b"c") }]).unwrap();
    drop(log);
    let (mut log, second) = open(&path, 1000);
    assert_eq!(first[0], second[0]);
    assert_eq!((offsets(&second), log.known.last), (vec![0, 1, 2, 3, 4], 4));
    assert!(matches!(&second[3], Delivery::Control { body, .. } if body == "c"));
    assert!(matches!(&second[4], Delivery::Epoch { .. }));
    log.append(&[Entry { kind: Kind::Trigger, body: vec![b'x'; 1001].into() }]).unwrap();
    drop(log);
    let (log, third) = open(&path, 1000);
    assert_eq!((offsets(&third), log.known.last), (vec![4, 5, 6], 6), "all but the last one is too much");
    assert_eq!(third[0], second[4], "of the epoch that has begun before it");
}

#[test]
fn an_earlier_copy_of_the_file_uses_no_offset_again_in_the_same_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (mut log, _) = open(&path, 1000);
    log.append(&triggers(["a"])).unwrap();
    std::fs::copy(&path, folder.path().join("copy")).unwrap();
    log.append(&triggers(["b"])).unwrap();
    let known = log.known().clone();
    drop(log);
    std::fs::rename(folder.path().join("copy"), &path).unwrap();
    let (log, deliveries) = Log::reopen(&known, 1).unwrap();
    assert!(
        deliveries.first() == Some(&Delivery::Restart { is_read_back: true })
            && deliveries.last() == Some(&Delivery::Missed)
    );
    let epochs: Vec<_> = deliveries.iter().filter(|delivery| matches!(delivery, Delivery::Epoch { .. })).collect();
    assert_eq!(*epochs[1], Delivery::Epoch { epoch: log.known.epoch, offset: 2 });
    assert_ne!(log.known.epoch, known.epoch, "what was written at offset 2 is not what comes there now");
}

#[test]
fn a_file_that_is_opened_again_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (mut log, _) = open(&path, 1000);
    log.append(&triggers(["a"])).unwrap();
    let known = log.known().clone();
    log.append(&triggers(["b"])).unwrap(); // of which nobody has heard
    drop(log);
    let (log, deliveries) = Log::reopen(&known, 1).unwrap();
    let [Delivery::Trigger { body, offset: Some(2), is_recalled: false }, Delivery::Epoch { offset: 3, .. }] =
        &deliveries[..]
    else {
        panic!("{deliveries:?}")
    };
    assert_eq!((&body[..], log.known.last), (&b"b"[..], 3));
}

#[test]
fn a_file_that_is_deleted_is_written_anew_with_all_that_was_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (mut log, _) = open(&path, 1000);
    log.append(&triggers(["a", "b"])).unwrap();
    std::fs::remove_file(&path).unwrap();
    log.append(&[]).unwrap();
    log.append(&triggers(["c"])).unwrap();
    std::fs::remove_file(&path).unwrap();
    log.append(&triggers(["d"])).unwrap();
    drop(log);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let (_, deliveries) = open(&path, 1000);
    assert_eq!(offsets(&deliveries), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn another_file_at_the_path_is_not_written_past() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (mut log, _) = open(&path, 1000);
    drop(open(&folder.path().join("other"), 1000));
    std::fs::rename(folder.path().join("other"), &path).unwrap();
    assert!(matches!(log.append(&triggers(["a"])), Err(Failure::Replaced)));
}

#[test]
fn a_file_that_is_in_use_or_something_else_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (_log, _) = open(&path, 1000);
    let history = config::History::default();
    let error = Log::open(&path, &history).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    let other = folder.path().join("other");
    std::fs::write(&other, "this is no log").unwrap();
    Log::open(&other, &history).unwrap_err();
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "this is no log");
}

#[test]
fn what_instances_tell_each_other_is_bounded_by_bytes_and_pushes_no_trigger_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let limit_bytes = 1 << 20;
    let (mut log, _) = open(&path, limit_bytes);
    log.append(&triggers(["first"])).unwrap();
    log.append(&[Entry { kind: Kind::Control, body: Bytes::from_static(b"c") }]).unwrap();
    let told = |kind| Entry { kind, body: vec![b'x'; 80_000].into() };
    for number in 0..300 {
        log.append(&[told(if number % 2 == 0 { Kind::Instance } else { Kind::Channelstream })]).unwrap();
        assert!(log.sizes.instances <= limit_bytes, "{:?}", log.sizes);
    }
    log.append(&triggers(["last"])).unwrap();
    let sizes = log.sizes;
    assert_eq!(sizes.triggers, "firstclast".len());
    drop(log);
    assert!(path.metadata().unwrap().len() < 4 * limit_bytes as u64, "{}", path.metadata().unwrap().len());
    let (log, deliveries) = open(&path, limit_bytes);
    assert_eq!((log.sizes.triggers, log.sizes.instances), (sizes.triggers, sizes.instances));
    let is = |delivery: &&Delivery, text: &str| matches!(delivery, Delivery::Trigger { body, .. } if body == text);
    assert!(
        deliveries.iter().any(|delivery| is(&delivery, "first"))
            && deliveries.iter().any(|delivery| is(&delivery, "last"))
    );
    let told = deliveries.iter().filter(|it| matches!(it, Delivery::Instance { .. } | Delivery::Channelstream { .. }));
    assert_eq!(told.count(), limit_bytes / 80_000);
}
