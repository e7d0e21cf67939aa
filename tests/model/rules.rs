//! What can be broken on purpose, one rule at a time. That each is noticed shows that the model is not blind.

macro_rules! rules {
    ($($(#[doc = $why:literal])? $rule:ident,)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Break {
            $($(#[doc = $why])? $rule,)*
        }

        impl Break {
            pub(crate) const ALL: &[Self] = &[$(Self::$rule,)*];
        }
    };
}

rules! {
    // The message function.
    AcksBeforeTheQueue,
    DoesNotQueueARepeat,
    NamesEventsByAttempt,
    EditsWhatIsNotThere,
    // Redis scripts.
    TrustsAHeadThatDisagrees,
    KeepsNowWithoutLog,
    JoinReadsBeforeSubscribing,
    JoinDoesNotAskPostgres,
    NewHeadIsWholeAtOnce,
    NewHeadKeepsItsGeneration,
    PingIgnoresTheGeneration,
    // Reading.
    AsksPostgresBeforeRedis,
    TrustsTheLogBelowItsStart,
    ReadsOnlyPostgresBelowTheStart,
    CutsPagesBetweenEqualPositions,
    IgnoresWhatIsNewerThanPostgres,
    // The archive.
    DeletesRecordsFirst,
    TrimsWhatIsNotStored,
    LastEditToArriveWins,
    ForgetsDeletionsBeforeTheirMessage,
    ForgetsEditsBeforeTheirMessage,
    DoesNotRecomputeMovedEdits,
    ReusedIdIsTheOldMessage,
    // The comparison of what it stored with the log.
    DoesNotLookIntoTheLog,
    /// A call that stored something may die before it compares.
    LooksOnlyForWhatItChanged,
    /// Who read below the start before Postgres had the event is not told.
    LooksOnlyAfterTheStart,
    ForgetsToRaiseTheStart,
    LeavesSupersededEntries,
    LeavesDeletedEntries,
    ForgetsWhatItFoundElsewhere,
    DoesNotCompareTheNewest,
    DoesNotCountGenerations,
    DoesNotCountWithoutHead,
    DoesNotCompareTheChain,
    ComparesTheChainWithoutItsEnd,
    DoesNotMoveTheClockOn,
    // The client, and whom it asks.
    NobodyComparesGenerations,
    NobodyNoticesAPositionAhead,
    IgnoresPrevious,
    PushesCarryNoGeneration,
    SmallerPositionWins,
    NeverDropsWhatIsGone,
    ReadsAgainOnlyTheNewestPage,
    KeepsItsPositionInANewGeneration,
    IgnoresAnEventWithTwoPositions,
}

/// The rules of the protocol, or all but one.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Rules {
    broken: Option<Break>,
}

impl Rules {
    pub(crate) fn without(broken: Break) -> Self {
        Self { broken: Some(broken) }
    }

    pub(crate) fn breaks(self, rule: Break) -> bool {
        self.broken == Some(rule)
    }
}
