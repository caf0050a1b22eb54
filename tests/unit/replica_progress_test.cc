// The state machine of one replica: each rule by itself, then all of them against a model.
#include "services/forwarder-service/core/replica_progress.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace intermezzo::forwarder {
namespace {

// At second `seconds` of the clock.
absl::Time At(int64_t seconds) { return absl::FromUnixSeconds(seconds); }

class ReplicaProgressTest : public ::testing::Test {
 protected:
  // Entries from..to of 100 bytes, committed at their seq in seconds.
  std::vector<EntryRead> Entries(uint64_t from, uint64_t to) {
    std::vector<EntryRead> entries;
    for (uint64_t seq = from; seq <= to; ++seq) {
      entries.push_back({Seq(seq), 100, 100, At(seq)});
    }
    return entries;
  }
  void Head(uint64_t seq) { replica_.HeadMoved({Seq(seq), seq * 100}); }
  void Read(StreamId stream, uint64_t from, uint64_t to) {
    ASSERT_TRUE(replica_.EntriesRead(stream, Entries(from, to)).ok());
  }
  void ReadAndSend(StreamId stream, uint64_t from, uint64_t to) {
    Read(stream, from, to);
    replica_.Sent(stream, Seq(to));
  }
  bool Ack(StreamId stream, uint64_t seq) {
    absl::StatusOr<bool> moved = replica_.Acked(stream, Seq(seq), now_);
    EXPECT_TRUE(moved.ok()) << moved.status();
    return moved.value_or(false);
  }

  absl::Time now_ = absl::FromUnixSeconds(1000);
  ReplicaProgress replica_{{.bytes = 1000, .records = 8}, absl::Seconds(10)};
};

TEST_F(ReplicaProgressTest, IsAwayUntilItSaysHello) {
  EXPECT_EQ(replica_.state(), ReplicaState::kAway);
  EXPECT_FALSE(replica_.heard());
  EXPECT_FALSE(replica_.MayRead(0));
  EXPECT_FALSE(replica_.MayRead(1));
}

TEST_F(ReplicaProgressTest, IsLiveOnceEverythingWasPassedOn) {
  ASSERT_TRUE(replica_.Connected(1, Seq(0), now_));
  EXPECT_EQ(replica_.state(), ReplicaState::kCatchingUp) << "the head is not known yet";
  Head(4);
  EXPECT_EQ(replica_.state(), ReplicaState::kCatchingUp);
  Read(1, 1, 4);
  EXPECT_EQ(replica_.state(), ReplicaState::kCatchingUp) << "read, but not sent";
  replica_.Sent(1, Seq(4));
  EXPECT_EQ(replica_.state(), ReplicaState::kLive);
}

TEST_F(ReplicaProgressTest, IsLiveAtOnceWhereItHasEverything) {
  Head(4);
  ASSERT_TRUE(replica_.Connected(1, Seq(4), now_));
  EXPECT_EQ(replica_.state(), ReplicaState::kLive);
}

TEST_F(ReplicaProgressTest, LagsBehindMoreThanTheWindowAndRecoversAtHalfOfIt) {
  Head(0);
  ASSERT_TRUE(replica_.Connected(1, Seq(0), now_));
  ASSERT_EQ(replica_.state(), ReplicaState::kLive);
  Head(8);
  EXPECT_EQ(replica_.state(), ReplicaState::kLive);
  Head(9);
  EXPECT_EQ(replica_.state(), ReplicaState::kLagging);
  ReadAndSend(1, 1, 9);
  Ack(1, 4);
  EXPECT_EQ(replica_.state(), ReplicaState::kLagging) << "5 of 8 behind";
  Ack(1, 5);
  EXPECT_EQ(replica_.state(), ReplicaState::kLive);
}

TEST_F(ReplicaProgressTest, LagsByBytesToo) {
  replica_.HeadMoved({Seq(0), 0});
  ASSERT_TRUE(replica_.Connected(1, Seq(0), now_));
  replica_.HeadMoved({Seq(1), 1001});
  EXPECT_EQ(replica_.state(), ReplicaState::kLagging);
}

TEST_F(ReplicaProgressTest, WindowOfRecordsStopsReading) {
  ASSERT_TRUE(replica_.Connected(1, Seq(0), now_));
  Head(100);
  Read(1, 1, 7);
  EXPECT_TRUE(replica_.MayRead(1));
  Read(1, 8, 8);
  EXPECT_FALSE(replica_.MayRead(1));
  replica_.Sent(1, Seq(8));
  EXPECT_FALSE(replica_.MayRead(1)) << "sending does not open the window";
  Ack(1, 1);
  EXPECT_TRUE(replica_.MayRead(1));
}

TEST_F(ReplicaProgressTest, WindowOfBytesCountsWhatIsSent) {
  ASSERT_TRUE(replica_.Connected(1, Seq(0), now_));
  // Own records come without payload: they count little here, wholly for the lag.
  std::vector<EntryRead> own = {{Seq(1), 10, 5000, At(1)}};
  ASSERT_TRUE(replica_.EntriesRead(1, own).ok());
  EXPECT_TRUE(replica_.MayRead(1));
  EXPECT_EQ(replica_.in_flight_bytes(), 10u);
  std::vector<EntryRead> large = {{Seq(2), 990, 990, At(1)}};
  ASSERT_TRUE(replica_.EntriesRead(1, large).ok());
  EXPECT_FALSE(replica_.MayRead(1));
}

TEST_F(ReplicaProgressTest, RefusesGapsAndRepetitionsFromTheJournal) {
  ASSERT_TRUE(replica_.Connected(1, Seq(5), now_));
  EXPECT_EQ(replica_.EntriesRead(1, Entries(7, 8)).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(replica_.EntriesRead(1, Entries(5, 6)).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(replica_.in_flight_records(), 0u);
  EXPECT_EQ(replica_.read(), Seq(5));
  EXPECT_TRUE(replica_.EntriesRead(1, Entries(6, 7)).ok());
}

TEST_F(ReplicaProgressTest, AcksAreCumulativeAndRepeatedOnesIgnored) {
  ASSERT_TRUE(replica_.Connected(1, Seq(0), now_));
  ReadAndSend(1, 1, 6);
  EXPECT_TRUE(Ack(1, 4));
  EXPECT_EQ(replica_.in_flight_records(), 2u);
  EXPECT_EQ(replica_.in_flight_bytes(), 200u);
  EXPECT_FALSE(Ack(1, 4));
  EXPECT_FALSE(Ack(1, 2));
  EXPECT_EQ(replica_.acked(), Seq(4));
  EXPECT_TRUE(Ack(1, 6));
  EXPECT_EQ(replica_.in_flight_bytes(), 0u);
}

TEST_F(ReplicaProgressTest, RefusesAnAckOfWhatWasNotSent) {
  ASSERT_TRUE(replica_.Connected(1, Seq(0), now_));
  ReadAndSend(1, 1, 2);
  Read(1, 3, 4);
  EXPECT_EQ(replica_.Acked(1, Seq(3), now_).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(replica_.acked(), Seq(0));
}

TEST_F(ReplicaProgressTest, ANewerStreamTakesOverAndTheOldOneIsStale) {
  ASSERT_TRUE(replica_.Connected(3, Seq(0), now_));
  ReadAndSend(3, 1, 4);
  ASSERT_TRUE(replica_.Connected(7, Seq(2), now_));
  EXPECT_EQ(replica_.acked(), Seq(2));
  EXPECT_EQ(replica_.in_flight_records(), 0u);
  EXPECT_FALSE(Ack(3, 4)) << "late ack of the old stream";
  EXPECT_EQ(replica_.acked(), Seq(2));
  EXPECT_EQ(replica_.EntriesRead(3, Entries(5, 6)).code(), absl::StatusCode::kAborted);
  EXPECT_FALSE(replica_.MayRead(3));
  replica_.Disconnected(3);
  EXPECT_EQ(replica_.stream(), 7u);
  EXPECT_FALSE(replica_.Connected(5, Seq(4), now_)) << "an older stream came late";
  EXPECT_EQ(replica_.acked(), Seq(2));
  replica_.Disconnected(7);
  EXPECT_EQ(replica_.state(), ReplicaState::kAway);
  EXPECT_FALSE(replica_.Connected(7, Seq(4), now_));
}

TEST_F(ReplicaProgressTest, TheReplicasOwnCursorCountsAlsoWhereItIsLower) {
  ASSERT_TRUE(replica_.Connected(1, Seq(0), now_));
  ReadAndSend(1, 1, 8);
  Ack(1, 8);
  replica_.Disconnected(1);
  ASSERT_TRUE(replica_.Connected(2, Seq(3), now_));
  EXPECT_EQ(replica_.acked(), Seq(3));
  Read(2, 4, 5);
}

TEST_F(ReplicaProgressTest, TrimmedBehindTheCursorDoesNotMatter) {
  ASSERT_TRUE(replica_.Connected(1, Seq(5), now_));
  replica_.Trimmed(1, Seq(6));
  EXPECT_NE(replica_.state(), ReplicaState::kNeedsSnapshot);
  replica_.Trimmed(1, Seq(7));
  EXPECT_EQ(replica_.state(), ReplicaState::kNeedsSnapshot);
  EXPECT_FALSE(replica_.MayRead(1));
  replica_.Disconnected(1);
  EXPECT_EQ(replica_.state(), ReplicaState::kNeedsSnapshot) << "also while away";
  ASSERT_TRUE(replica_.Connected(2, Seq(9), now_));
  EXPECT_EQ(replica_.state(), ReplicaState::kCatchingUp);
}

TEST_F(ReplicaProgressTest, TrimmingFoundByPollingConcernsThoseAway) {
  replica_.Trimmed(0, Seq(7));
  EXPECT_EQ(replica_.state(), ReplicaState::kAway) << "its cursor is not known";
  ASSERT_TRUE(replica_.Connected(1, Seq(5), now_));
  replica_.Trimmed(0, Seq(7));
  EXPECT_EQ(replica_.state(), ReplicaState::kCatchingUp) << "its own reading will tell it";
  replica_.Disconnected(1);
  replica_.Trimmed(0, Seq(7));
  EXPECT_EQ(replica_.state(), ReplicaState::kNeedsSnapshot);
}

TEST_F(ReplicaProgressTest, WhatWasSentAndNotAcknowledgedCountsAsMissingWhileAway) {
  ASSERT_TRUE(replica_.Connected(1, Seq(0), now_));
  ReadAndSend(1, 1, 8);
  Ack(1, 2);
  replica_.Disconnected(1);
  replica_.Trimmed(0, Seq(3));
  EXPECT_EQ(replica_.state(), ReplicaState::kAway);
  replica_.Trimmed(0, Seq(6));
  EXPECT_EQ(replica_.state(), ReplicaState::kNeedsSnapshot);
  // It had applied them after all.
  ASSERT_TRUE(replica_.Connected(2, Seq(8), now_));
  EXPECT_EQ(replica_.state(), ReplicaState::kCatchingUp);
}

TEST_F(ReplicaProgressTest, SilenceIsNoticed) {
  ASSERT_TRUE(replica_.Connected(1, Seq(0), now_));
  EXPECT_FALSE(replica_.Tick(now_ + absl::Seconds(9)));
  now_ += absl::Seconds(9);
  Ack(1, 0);
  EXPECT_FALSE(replica_.Tick(now_ + absl::Seconds(9))) << "a repeated ack is a sign of life";
  EXPECT_TRUE(replica_.Tick(now_ + absl::Seconds(10)));
  replica_.Disconnected(1);
  EXPECT_FALSE(replica_.Tick(now_ + absl::Seconds(20)));
}

TEST_F(ReplicaProgressTest, LagIsZeroWhereNothingIsMissing) {
  Head(5);
  ASSERT_TRUE(replica_.Connected(1, Seq(5), now_));
  Lag lag = replica_.lag(At(1'000'000));
  EXPECT_EQ(lag.records, 0u);
  EXPECT_EQ(lag.bytes, 0u);
  EXPECT_EQ(lag.age, absl::ZeroDuration());
  EXPECT_EQ(replica_.WantsCommitTime(), std::nullopt);
}

TEST_F(ReplicaProgressTest, LagIsThatOfTheOldestEntryNotAcknowledged) {
  Head(6);
  ASSERT_TRUE(replica_.Connected(1, Seq(0), now_));
  ReadAndSend(1, 1, 6);
  Ack(1, 2);
  Lag lag = replica_.lag(At(10));
  EXPECT_EQ(lag.records, 4u);
  EXPECT_EQ(lag.bytes, 400u);
  EXPECT_EQ(lag.age, absl::Seconds(7));
  replica_.Disconnected(1);
  Head(9);
  lag = replica_.lag(At(11));
  EXPECT_EQ(lag.records, 7u);
  EXPECT_EQ(lag.bytes, 700u);
  EXPECT_EQ(lag.age, absl::Seconds(8)) << "known also while away";
}

TEST_F(ReplicaProgressTest, AsksForTheCommitTimeThatItDoesNotKnow) {
  Head(5);
  ASSERT_TRUE(replica_.Connected(1, Seq(5), now_));
  replica_.Disconnected(1);
  Head(7);
  ASSERT_EQ(replica_.WantsCommitTime(), Seq(6));
  EXPECT_EQ(replica_.lag(At(10)).age, absl::ZeroDuration());
  replica_.CommitTimeKnown(Seq(5), At(1));
  ASSERT_EQ(replica_.WantsCommitTime(), Seq(6)) << "an answer for another seq";
  replica_.CommitTimeKnown(Seq(6), At(6));
  EXPECT_EQ(replica_.WantsCommitTime(), std::nullopt);
  EXPECT_EQ(replica_.lag(At(10)).age, absl::Seconds(4));
  EXPECT_EQ(replica_.lag(At(5)).age, absl::ZeroDuration()) << "never negative";
}

TEST(CommittedAtTest, IsADifferenceOfTheServersClockOnly) {
  const int64_t server = 7'000'000'000;
  EXPECT_EQ(CommittedAt(server, server + 2'000'000'000, At(50)), At(48));
  EXPECT_EQ(CommittedAt(server, server, At(50)), At(50));
  EXPECT_EQ(CommittedAt(server, server - 1, At(50)), At(50)) << "its clock jumped back";
  EXPECT_EQ(CommittedAt(server, 0, At(50)), At(50)) << "not stated";
}

TEST_F(ReplicaProgressTest, LagBytesAreEstimatedOnlyUntilKnown) {
  replica_.HeadMoved({Seq(10), 10'000});
  ASSERT_TRUE(replica_.Connected(1, Seq(5), now_));
  EXPECT_EQ(replica_.lag(At(0)).bytes, 5000u) << "by the mean";
  ReadAndSend(1, 6, 10);
  EXPECT_EQ(replica_.lag(At(0)).bytes, 500u) << "they were smaller than the mean";
  Ack(1, 8);
  EXPECT_EQ(replica_.lag(At(0)).bytes, 200u);
}

TEST_F(ReplicaProgressTest, LateNewsOfTheHeadAreIgnored) {
  Head(9);
  Head(4);
  EXPECT_EQ(replica_.head(), Seq(9));
}

// Random inputs against a model of what a replica may have been sent; prints the seed.
class ReplicaProgressProperty : public ::testing::TestWithParam<uint32_t> {};

TEST_P(ReplicaProgressProperty, KeepsItsPromises) {
  SCOPED_TRACE("seed " + std::to_string(GetParam()));
  std::mt19937_64 random(GetParam());
  auto pick = [&](uint64_t n) { return random() % n; };

  const Window window{.bytes = 1 + pick(3000), .records = 1 + pick(20)};
  ReplicaProgress replica(window, absl::Seconds(10));
  absl::Time now = absl::UnixEpoch();
  std::vector<uint64_t> total_bytes{0};  // by seq, cumulative
  std::vector<absl::Time> committed{At(0)};
  uint64_t first_kept = 1, durable = 0, acked = 0, sent = 0, read = 0;
  StreamId stream = 0, last_stream = 0;
  bool heard = false;
  uint64_t largest_message_bytes = 0, largest_message_records = 0;

  for (int step = 0; step < 4000; ++step) {
    now += absl::Milliseconds(pick(300));
    uint64_t head = total_bytes.size() - 1;
    switch (pick(8)) {
      case 0:
      case 1: {  // the journal grows
        for (uint64_t n = 1 + pick(5); n > 0; --n) {
          total_bytes.push_back(total_bytes.back() + 1 + pick(300));
          committed.push_back(now);
        }
        if (pick(3) != 0) replica.HeadMoved({Seq(total_bytes.size() - 1), total_bytes.back()});
        break;
      }
      case 2: {  // connect
        if (stream != 0 && pick(4) != 0) break;
        stream = ++last_stream;
        // It has applied any part of what it was sent, or comes from an older image.
        durable = pick(10) == 0 ? pick(durable + 1) : durable + pick(sent - durable + 1);
        ASSERT_TRUE(replica.Connected(stream, Seq(durable), now));
        acked = sent = read = durable;
        heard = true;
        if (durable + 1 < first_kept) replica.Trimmed(stream, Seq(first_kept));
        break;
      }
      case 3: {  // read
        replica.HeadMoved({Seq(head), total_bytes.back()});
        if (!replica.MayRead(stream)) break;
        std::vector<EntryRead> entries;
        uint64_t bytes = 0;
        for (uint64_t n = pick(6); n > 0 && read < head; --n) {
          ++read;
          uint64_t size = total_bytes[read] - total_bytes[read - 1];
          entries.push_back({Seq(read), size, size, committed[read]});
          bytes += size;
        }
        largest_message_bytes = std::max(largest_message_bytes, bytes);
        largest_message_records = std::max<uint64_t>(largest_message_records, entries.size());
        ASSERT_TRUE(replica.EntriesRead(stream, entries).ok());
        break;
      }
      case 4:  // send
        if (stream == 0) break;
        sent = std::max(sent, sent + pick(read - sent + 1));
        replica.Sent(stream, Seq(sent));
        break;
      case 5: {  // ack: fresh, repeated, too much, or of an old stream
        uint64_t seq = pick(sent + 3);
        StreamId from = pick(5) == 0 && last_stream > 0 ? 1 + pick(last_stream) : stream;
        absl::StatusOr<bool> moved = replica.Acked(from, Seq(seq), now);
        if (stream == 0 || from != stream) {
          ASSERT_TRUE(moved.ok());
          ASSERT_FALSE(*moved);
        } else if (seq > sent) {
          ASSERT_FALSE(moved.ok());
        } else {
          ASSERT_EQ(*moved, seq > acked);
          acked = std::max(acked, seq);
          durable = std::max(durable, acked);
        }
        break;
      }
      case 6:  // disconnect, of any stream
        if (pick(3) == 0) {
          StreamId which = last_stream == 0 ? 0 : 1 + pick(last_stream);
          replica.Disconnected(which);
          if (which == stream) stream = 0;
        }
        break;
      case 7:  // the journal is trimmed
        if (pick(10) == 0) {
          first_kept = std::min(head + 1, first_kept + pick(5));
          replica.Trimmed(0, Seq(first_kept));
        }
        break;
    }
    head = total_bytes.size() - 1;
    ASSERT_EQ(replica.acked(), Seq(acked)) << "step " << step;
    ASSERT_EQ(replica.heard(), heard);
    ASSERT_EQ(replica.stream(), stream);
    ASSERT_LT(replica.in_flight_bytes(),
              window.bytes + std::max<uint64_t>(largest_message_bytes, 1));
    ASSERT_LT(replica.in_flight_records(),
              window.records + std::max<uint64_t>(largest_message_records, 1));
    if (stream != 0) {
      ASSERT_EQ(replica.in_flight_records(), read - acked);
      ASSERT_EQ(replica.in_flight_bytes(), total_bytes[read] - total_bytes[acked]);
      if (replica.state() == ReplicaState::kLive) {
        ASSERT_LE(replica.lag(At(0)).records, window.records);
        ASSERT_LE(replica.lag(At(0)).bytes, window.bytes);
      }
    } else {
      ASSERT_FALSE(replica.MayRead(stream));
      ASSERT_TRUE(replica.state() == ReplicaState::kAway ||
                  replica.state() == ReplicaState::kNeedsSnapshot);
    }
    Lag lag = replica.lag(now);
    ASSERT_LE(lag.records, head - acked);
    ASSERT_EQ(lag.records == 0, lag.bytes == 0);
    if (auto wanted = replica.WantsCommitTime()) {
      ASSERT_EQ(*wanted, Seq(acked + 1));
      replica.CommitTimeKnown(*wanted, committed[acked + 1]);
      lag = replica.lag(now);
    }
    if (lag.records > 0) {
      ASSERT_EQ(lag.age, now - committed[acked + 1]);
    } else {
      ASSERT_EQ(lag.age, absl::ZeroDuration());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, ReplicaProgressProperty, ::testing::Range(1u, 101u));

}  // namespace
}  // namespace intermezzo::forwarder
