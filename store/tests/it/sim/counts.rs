//! That a run means something.

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident: $least:expr,)*) => {
        /// How often what happened.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub(super) struct Counts {
            $($(#[$doc])* pub(super) $name: u64,)*
        }

        impl Counts {
            pub(super) fn add(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }

            /// What happened less often than it has to in so many seeds, for the run to mean something.
            pub(super) fn too_few(&self, seeds: u64) -> Vec<&'static str> {
                // In a thousand seeds.
                let few = [$((stringify!($name), self.$name, $least)),*];
                let few = few.iter().filter(|(_, count, least)| count * 1000 < least * seeds);
                few.map(|(name, ..)| *name).collect()
            }
        }

        impl std::fmt::Display for Counts {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let all = [$((stringify!($name), self.$name)),*];
                for (place, (name, count)) in all.iter().enumerate() {
                    let comma = if place == 0 { "" } else { ", " };
                    write!(f, "{comma}{} {count}", name.replace('_', " "))?;
                }
                Ok(())
            }
        }
    };
}

counts! {
    // Clients; the number is the least in a thousand seeds.
    committed: 30_000,
    duplicates: 100,
    conflicts: 6_000,
    reused_ids: 1_000,
    retries: 60_000,
    linearizable_reads: 20_000,
    other_reads: 10_000,
    /// Revisions that watches were told.
    watched: 30_000,
    bookmarks: 1_000,
    relists: 300,
    resumes: 5_000,
    // Faults.
    lost_messages: 30_000,
    repeated_messages: 10_000,
    late_messages: 3_000,
    partitions: 700,
    one_way_partitions: 700,
    pauses: 400,
    clock_jumps: 700,
    crashes: 1_000,
    /// Batches that a crash took, tore, or left whole though nobody knew.
    unsynced_lost: 100,
    unsynced_torn: 100,
    unsynced_kept: 100,
    blackouts: 100,
    disk_errors: 200,
    rotten_logs: 100,
    rotten_snapshots: 100,
    restarts: 1_000,
    clean_restarts: 400,
    // What servers did.
    elections: 1_000,
    transfers: 500,
    snapshots: 7_000,
    installed_snapshots: 100,
    compactions: 9_000,
}
