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
    committed: 70_000,
    duplicates: 600,
    conflicts: 20_000,
    reused_ids: 3_000,
    retries: 100_000,
    linearizable_reads: 50_000,
    other_reads: 20_000,
    /// Revisions that watches were told.
    watched: 70_000,
    bookmarks: 4_000,
    relists: 500,
    resumes: 8_000,
    // Faults.
    lost_messages: 100_000,
    repeated_messages: 20_000,
    late_messages: 8_000,
    partitions: 1_200,
    one_way_partitions: 1_200,
    pauses: 800,
    clock_jumps: 1_200,
    crashes: 5_000,
    /// Batches that a crash took, tore, or left whole though nobody knew.
    unsynced_lost: 150,
    unsynced_torn: 150,
    unsynced_kept: 150,
    blackouts: 250,
    disk_errors: 400,
    rotten_logs: 200,
    rotten_snapshots: 1_000,
    wiped_disks: 80,
    starved: 1_200,
    away: 300,
    flickers: 500,
    deposed: 200,
    restarts: 4_000,
    clean_restarts: 800,
    // What servers did.
    elections: 4_000,
    transfers: 1_500,
    snapshots: 12_000,
    installed_snapshots: 1_500,
    compactions: 20_000,
    // Membership.
    /// Changes that were made.
    changes: 5_000,
    joins: 1_800,
    removals: 1_600,
    /// Leaders that were asked to remove themselves.
    removed_leaders: 150,
    /// Servers that heard from others that they were removed.
    expelled: 1_000,
    /// Messages of servers that were removed.
    refused_messages: 2_500,
    // Changes that were refused.
    unhealthy_removals: 150,
    early_promotions: 300,
    second_changes: 500,
    retired_ids: 800,
}
