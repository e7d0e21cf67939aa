//! For each rule the weather that shows best that it is missing, and a schedule that does.

use crate::{rules::Break, weather::Weather};

/// A change of the weather that chance has drawn.
pub(crate) type Focus = fn(&mut Weather);

pub(crate) fn focus(rule: Break) -> Focus {
    use Break::*;
    match rule {
        AcksBeforeTheQueue | DoesNotQueueARepeat | DeletesRecordsFirst => |weather| {
            weather.clear();
            (weather.functions_die, weather.queue_refuses, weather.redis_loses_all) = (true, true, true);
        },
        NamesEventsByAttempt | IgnoresPrevious | JoinReadsBeforeSubscribing => |weather| {
            weather.clear();
            (weather.sockets_drop, weather.queue_is_slow) = (true, true);
        },
        IgnoresWhatIsNewerThanPostgres
        | LastEditToArriveWins
        | ForgetsDeletionsBeforeTheirMessage
        | LeavesDeletedEntries => |weather| {
            weather.clear();
            (weather.edits, weather.scrolls, weather.trims, weather.functions_die) = (true, true, true, true);
            (weather.redis_loses_all, weather.events, weather.sockets_drop) =
                (weather.clients == 2, 12, true);
        },
        AsksPostgresBeforeRedis | TrustsTheLogBelowItsStart | ReadsOnlyPostgresBelowTheStart => |weather| {
            weather.clear();
            (weather.trims, weather.hot, weather.sockets_drop) = (true, 0, true);
            weather.queue_is_long = weather.limit > 1;
        },
        TrustsAHeadThatDisagrees => |weather| {
            weather.clear();
            (weather.redis_evicts, weather.edits, weather.functions_die) = (true, true, true);
            weather.queue_is_slow = true;
        },
        NewHeadIsWholeAtOnce => |weather| {
            weather.clear();
            (weather.redis_loses_all, weather.expires, weather.sockets_drop, weather.trims) =
                (true, true, true, true);
        },
        ForgetsEditsBeforeTheirMessage | DoesNotRecomputeMovedEdits => |weather| {
            weather.clear();
            (weather.edits, weather.redis_loses_all, weather.functions_die) = (true, true, true);
            (weather.queue_is_slow, weather.events) = (true, 12);
            (weather.redis_goes_back, weather.clock_goes_back) = (weather.clients == 2, true);
        },
        CutsPagesBetweenEqualPositions | NobodyNoticesAPositionAhead | DoesNotMoveTheClockOn => |weather| {
            weather.clear();
            (weather.redis_goes_back, weather.clock_goes_back, weather.limit) = (true, true, 1);
            weather.trims = weather.hot == 0;
        },
        ReusedIdIsTheOldMessage => |weather| {
            weather.clear();
            (weather.reuses_ids, weather.whole_days_pass) = (true, true);
        },
        LooksOnlyForWhatItChanged | LooksOnlyAfterTheStart => |weather| {
            weather.clear();
            (weather.functions_die, weather.redis_goes_back, weather.queue_repeats) = (true, true, true);
            (weather.redis_evicts, weather.sockets_drop, weather.redis_loses_all) =
                (true, true, weather.hot < 2);
        },
        PingIgnoresTheGeneration => |weather| {
            weather.clear();
            (weather.redis_goes_back, weather.functions_die, weather.clock_goes_back) =
                (true, true, weather.limit < 3);
            weather.events = 2 + weather.events / 3;
        },
        ForgetsWhatItFoundElsewhere
        | EditsWhatIsNotThere
        | ComparesTheChainWithoutItsEnd
        | KeepsNowWithoutLog
        | IgnoresAnEventWithTwoPositions
        | DoesNotCountWithoutHead
        | NewHeadKeepsItsGeneration
        | TrimsWhatIsNotStored => |_| (),
        _ => |weather| {
            weather.clear();
            (weather.redis_goes_back, weather.pushes_get_lost, weather.queue_is_slow) =
                (true, weather.hot == 0, true);
            (weather.functions_die, weather.sockets_drop, weather.clock_goes_back) =
                (true, true, weather.limit < 2);
        },
    }
}

/// A schedule that notices in this weather that the rule is missing.
pub(crate) fn recorded(rule: Break) -> u64 {
    use Break::*;
    match rule {
        AcksBeforeTheQueue => 1,
        DoesNotQueueARepeat => 396,
        NamesEventsByAttempt => 11,
        EditsWhatIsNotThere => 406963,
        TrustsAHeadThatDisagrees => 986,
        KeepsNowWithoutLog => 53289,
        JoinReadsBeforeSubscribing => 380,
        JoinDoesNotAskPostgres => 1114,
        NewHeadIsWholeAtOnce => 4992,
        NewHeadKeepsItsGeneration => 11984,
        PingIgnoresTheGeneration => 4887,
        AsksPostgresBeforeRedis => 2069,
        TrustsTheLogBelowItsStart => 46,
        ReadsOnlyPostgresBelowTheStart => 6,
        CutsPagesBetweenEqualPositions => 1386,
        IgnoresWhatIsNewerThanPostgres => 24,
        DeletesRecordsFirst => 1808,
        TrimsWhatIsNotStored => 21,
        LastEditToArriveWins => 5843,
        ForgetsDeletionsBeforeTheirMessage => 586,
        ForgetsEditsBeforeTheirMessage => 5899,
        DoesNotRecomputeMovedEdits => 3159,
        ReusedIdIsTheOldMessage => 86,
        DoesNotLookIntoTheLog => 516,
        LooksOnlyForWhatItChanged => 229,
        LooksOnlyAfterTheStart => 811,
        ForgetsToRaiseTheStart => 2436,
        LeavesSupersededEntries => 11,
        LeavesDeletedEntries => 2258,
        ForgetsWhatItFoundElsewhere => 27709,
        DoesNotCompareTheNewest => 1114,
        DoesNotCountGenerations => 2569,
        DoesNotCountWithoutHead => 33464,
        DoesNotCompareTheChain => 4013,
        ComparesTheChainWithoutItsEnd => 337709,
        DoesNotMoveTheClockOn => 26,
        NobodyComparesGenerations => 7511,
        NobodyNoticesAPositionAhead => 11852,
        IgnoresPrevious => 1,
        PushesCarryNoGeneration => 88,
        SmallerPositionWins => 1507,
        NeverDropsWhatIsGone => 11,
        ReadsAgainOnlyTheNewestPage => 11,
        KeepsItsPositionInANewGeneration => 10,
        IgnoresAnEventWithTwoPositions => 15867,
    }
}
