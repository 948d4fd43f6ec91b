//! Bugs that are planted on purpose, to see that the simulation finds them: a check that finds nothing may as well
//! look at nothing. They are in builds with the feature `planted` only, which are for tests; elsewhere [`on`] is
//! `false` to the compiler.

use crate::members::MemberChange;

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("the feature `planted` is for tests: it has no place in a release build");

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A bug, by what it does wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[cfg_attr(not(feature = "planted"), expect(unreachable_pub, reason = "tests that plant it see it"))]
        pub enum Bug {
            $($(#[$doc])* $name,)*
        }

        #[cfg(feature = "planted")]
        impl Bug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

bugs! {
    /// Answers to other servers leave before what they promise is durable.
    PromiseBeforeSync,
    /// The vote is not written with its term.
    VoteNotWritten,
    /// The vote is not read back at the start.
    VoteForgotten,
    /// The log in memory goes on behind a snapshot of the leader's that replaced it.
    LogNotReset,
    /// A new leader's entries are put behind those that they replace.
    TailKept,
    /// The log on the disk goes on behind a snapshot that it does not continue.
    ReplacedLogKept,
    /// A snapshot that got lost is not sent again.
    SnapshotNotSentAgain,
    /// A server that is behind is sent a snapshot that the log does not continue.
    OldSnapshotOffered,
    /// A leader acts before it has applied what was committed before its term.
    LeadsTooEarly,
    /// A read is answered without a leader's word.
    ReadUnconfirmed,
    /// A read is answered before the state has what the leader said.
    ReadBeforeApplied,
    /// All reads of a run share one context.
    ReadContextReused,
    /// The answer to another run's read is taken.
    ReadOfAnotherRun,
    /// Applied requests are forgotten.
    RequestForgotten,
    /// A request is known by its id alone.
    FingerprintIgnored,
    /// A copy of a transaction that was refused is applied.
    RefusalForgotten,
    /// Only the first compare counts.
    OnlyFirstCompare,
    /// A transaction's time is the applier's.
    ClockInApply,
    /// A transaction's keys are in the order of a hash.
    HashOrder,
    /// A key that is made again goes on counting.
    VersionOutlivesDeletion,
    /// The deletion of what is not there is a change.
    NothingDeleted,
    /// What is removed stays in the hash.
    HashKeepsTheGone,
    /// The revision after a restart is the newest key's.
    RevisionOfNewestKey,
    /// Compaction forgets what is live.
    CompactionDropsLive,
    /// A watch that fell behind is not told.
    CompactedNotTold,
    /// History is read where it is forgotten.
    HistoryUnchecked,
    /// Deletions are no events.
    DeletionsUntold,
    /// A watch leaves out the revision after one that it told.
    WatchSkipsOne,
    /// A watch resumes with what it told last.
    WatchRepeats,
    /// A bookmark says more than was looked at.
    BookmarkTooFar,
    /// A watch tells the first change of a revision only.
    RevisionHalved,
    /// A snapshot holds no requests.
    SnapshotWithoutRequests,
    /// A learner is promoted that has not caught up.
    PromotedBehind,
    /// A learner is promoted by nobody.
    LearnerForgotten,
    /// raft takes learners for voters.
    LearnersVote,
    /// raft is not told of removals.
    RemovedStays,
    /// A leader that was removed goes on leading.
    RemovedLeads,
    /// A server is removed though no majority of the others is there.
    RemovalUnchecked,
    /// The id of a server that was removed is given again.
    IdUsedAgain,
    /// A change of membership is proposed while another is under way.
    TwoChangesAtOnce,
    /// The members after a restart are the snapshot's, though the state is ahead of it.
    MembersOfSnapshot,
    /// That a change of members is committed is forgotten by a crash.
    ChangeUnwritten,
    /// A server that joined is sent a snapshot that does not know it.
    OldMembersOffered,
}

/// Does something wrong if a bug is planted; with one argument, whether it is.
macro_rules! planted {
    ($bug:ident) => {
        $crate::planted::on($crate::planted::Bug::$bug)
    };
    ($bug:ident, $wrong:expr) => {
        if planted!($bug) {
            $wrong;
        }
    };
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in all servers that this thread runs; `None`: none.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether a bug is planted.
#[cfg(feature = "planted")]
pub(crate) fn on(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

#[cfg(not(feature = "planted"))]
pub(crate) const fn on(_bug: Bug) -> bool {
    false
}

/// Who belongs to the cluster after a change of which raft was told something else.
pub(crate) fn members_after(before: &api::store::Members, what: &MemberChange) -> api::store::Members {
    let mut members = before.clone();
    members.voters.retain(|id| *id != what.id());
    members.learners.retain(|id| *id != what.id());
    match what {
        MemberChange::AddLearner { id, .. } => members.learners.push(*id),
        MemberChange::Promote { id } => members.voters.push(*id),
        MemberChange::Remove { .. } => {}
    }
    members.voters.sort_unstable();
    members.learners.sort_unstable();
    members
}

/// The time of day.
pub(crate) fn clock() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or_default()
}

/// In the order of a hash.
pub(crate) fn shuffle<T: Eq + std::hash::Hash>(all: Vec<T>) -> Vec<T> {
    let set: std::collections::HashSet<T> = all.into_iter().collect();
    set.into_iter().collect()
}
