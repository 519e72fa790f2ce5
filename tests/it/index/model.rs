//! Whatever happens in whatever order, the index is what a fresh one would be.

use super::*;

/// One thing that happens; numbers choose among few, so that they meet.
#[derive(Debug, Clone)]
enum Event {
    Push { repository: u8, tag: u8, image: u8 },
    Refer { repository: u8, image: u8 },
    DeleteTag { repository: u8, tag: u8 },
    DeleteManifest { repository: u8, image: u8 },
    DeleteBlob { repository: u8, image: u8 },
    Mount { repository: u8, image: u8 },
    CatchUp,
    Restart { behind: Option<Behind> },
}

/// What the old registry does meanwhile.
#[derive(Debug, Clone)]
enum Behind {
    Tag { repository: u8, tag: u8, image: u8 },
    Untag { repository: u8, tag: u8 },
    Unlink { repository: u8, image: u8 },
    Link { repository: u8, image: u8 },
    Remove { repository: u8 },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let few = 0..3_u8;
    let two = || (few.clone(), few.clone());
    let three = || (few.clone(), few.clone(), few.clone());
    let behind = prop_oneof![
        three().prop_map(|(repository, tag, image)| Behind::Tag {
            repository,
            tag,
            image
        }),
        two().prop_map(|(repository, tag)| Behind::Untag { repository, tag }),
        two().prop_map(|(repository, image)| Behind::Unlink { repository, image }),
        two().prop_map(|(repository, image)| Behind::Link { repository, image }),
        few.clone()
            .prop_map(|repository| Behind::Remove { repository }),
    ];
    let event = prop_oneof![
        6 => three().prop_map(|(repository, tag, image)| Event::Push { repository, tag, image }),
        2 => two().prop_map(|(repository, image)| Event::Refer { repository, image }),
        1 => two().prop_map(|(repository, tag)| Event::DeleteTag { repository, tag }),
        1 => two().prop_map(|(repository, image)| Event::DeleteManifest { repository, image }),
        1 => two().prop_map(|(repository, image)| Event::DeleteBlob { repository, image }),
        1 => two().prop_map(|(repository, image)| Event::Mount { repository, image }),
        1 => Just(Event::CatchUp),
        3 => proptest::option::weighted(0.8, behind).prop_map(|behind| Event::Restart { behind }),
    ];
    proptest::collection::vec(event, 1..24)
}

impl Lab {
    async fn happen(&self, registry: TestRegistry, event: &Event) -> TestRegistry {
        let image_of = |image: &u8| digest(&image_manifest(&[*image], ""));
        // What is not there cannot be deleted: either answer will do.
        match event {
            Event::Push {
                repository,
                tag,
                image,
            } => {
                let (repository, tag) = (format!("r{repository}"), format!("t{tag}"));
                registry.push_image(&repository, &tag, &[*image]).await;
            }
            Event::Refer { repository, image } => {
                let repository = format!("r{repository}");
                registry.push_blob(&repository, b"{}").await;
                registry.push_blob(&repository, b"layer").await;
                let content = referrer_of(&image_of(image));
                push_manifest(&registry, &repository, &content).await;
            }
            Event::DeleteTag { repository, tag } => {
                let path = format!("/v2/r{repository}/manifests/t{tag}");
                registry.delete(&path).send().await;
            }
            Event::DeleteManifest { repository, image } => {
                let path = format!("/v2/r{repository}/manifests/{}", image_of(image));
                registry.delete(&path).send().await;
            }
            Event::DeleteBlob { repository, image } => {
                let layer = Digest::of(Algorithm::Sha256, &[*image]);
                let path = format!("/v2/r{repository}/blobs/{layer}");
                registry.delete(&path).send().await;
            }
            Event::Mount { repository, image } => {
                let layer = Digest::of(Algorithm::Sha256, &[*image]);
                let path = format!("/v2/r{repository}/blobs/uploads/?mount={layer}");
                registry.post(&path).send().await;
            }
            Event::CatchUp => self.settle(&registry).await,
            Event::Restart { behind } => {
                self.stop(registry).await;
                if let Some(behind) = behind {
                    self.behind(behind, image_of);
                }
                return self.start().await;
            }
        }
        registry
    }

    fn behind(&self, behind: &Behind, image_of: impl Fn(&u8) -> Digest) {
        let (data, repository) = (&self.data, |number: &u8| format!("r{number}"));
        // What is not there cannot be removed.
        match behind {
            Behind::Tag {
                repository: number,
                tag,
                image,
            } => {
                let tag = format!("t{tag}");
                tag_by_hand(data, &repository(number), &tag, &image_of(image));
            }
            Behind::Untag {
                repository: number,
                tag,
            } => {
                data.remove_below(&tag_keys(&repository(number), &format!("t{tag}")));
            }
            Behind::Unlink {
                repository: number,
                image,
            } => {
                data.remove(&revision_link(&repository(number), &image_of(image)));
            }
            Behind::Link {
                repository: number,
                image,
            } => {
                let image = image_of(image);
                // As in any registry, bytes come before their link.
                if data.read(&data_key(&image)).is_some() {
                    data.write(
                        &revision_link(&repository(number), &image),
                        image.to_string(),
                    );
                }
            }
            Behind::Remove { repository: number } => {
                data.remove_below(&keys_of(&repository(number)));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_index_is_what_a_fresh_one_would_be(events in events()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let lab = Lab::new();
            let mut registry = lab.start().await;
            for event in &events {
                registry = lab.happen(registry, event).await;
            }
            // What still waits to be read again is no difference.
            lab.settle(&registry).await;
            lab.expect_fresh("after all of that").await;
        });
    }
}
