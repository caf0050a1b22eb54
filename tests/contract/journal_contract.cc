// The contract: order, chain, dedup, epochs, reading, trimming, watching.
#include "tests/contract/journal_contract.h"

#include <atomic>
#include <map>

#include "absl/strings/str_cat.h"

namespace intermezzo::journal {
namespace {

using ::testing::HasSubstr;
using tests::RecordMaker;

TEST_P(JournalContract, SeqsAreDenseAndChained) {
  RecordMaker node(3);
  const uint64_t file = node.NewObject();
  ExpectOk(Append({node.Create(kRoot, "a", file), node.Write(file, 0, 10)}));
  auto confirmation = Append({node.Chmod(file, 0600)});
  ASSERT_TRUE(confirmation.ok()) << confirmation.status();
  EXPECT_EQ(confirmation->origin_seq, 3u);
  EXPECT_EQ(confirmation->seq, Seq(3));

  const auto entries = ReadAll();
  ASSERT_EQ(entries.size(), 3u);
  std::string chain;
  uint64_t bytes = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    EXPECT_EQ(entries[i]->entry.seq(), i + 1);
    chain = ChainHash(chain, Seq(i + 1), entries[i]->entry.record());
    EXPECT_EQ(entries[i]->entry.chain(), chain);
    EXPECT_EQ(*journal_->ChainAt(Seq(i + 1)), chain);
    EXPECT_EQ(entries[i]->entry.committed_ns(), absl::ToUnixNanos(clock().now()));
    bytes += entries[i]->entry.record().size() + entries[i]->entry.payload_length();
  }
  EXPECT_EQ(entries[1]->payload, std::string(10, 'x'));
  EXPECT_EQ(*journal_->ChainAt(Seq(0)), "");
  EXPECT_FALSE(journal_->ChainAt(Seq(4)).ok());
  const JournalState state = journal_->State();
  EXPECT_EQ(state.head, Seq(3));
  EXPECT_EQ(state.first, Seq(1));
  EXPECT_EQ(state.head_chain, chain);
  EXPECT_EQ(state.head_bytes, bytes);
}

TEST_P(JournalContract, CommitTimeNeverGoesBack) {
  RecordMaker node(3);
  ExpectOk(Append({node.Create(kRoot, "a", node.NewObject())}));
  clock().Advance(-absl::Hours(1));
  ExpectOk(Append({node.Create(kRoot, "b", node.NewObject())}));
  const auto entries = ReadAll();
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0]->entry.committed_ns(), entries[1]->entry.committed_ns());
}

TEST_P(JournalContract, EverythingComesBackAfterReopen) {
  if (!fixture_->durable()) GTEST_SKIP() << "keeps nothing";
  RecordMaker node(3);
  const uint64_t file = node.NewObject();
  ExpectOk(Append({node.Create(kRoot, "a", file), node.Write(file, 0, 100'000)}, 4));
  const JournalState before = journal_->State();
  Reopen();
  const JournalState after = journal_->State();
  EXPECT_EQ(after.head, before.head);
  EXPECT_EQ(after.head_chain, before.head_chain);
  EXPECT_EQ(after.head_bytes, before.head_bytes);
  EXPECT_EQ(after.epoch, Epoch(4));
  EXPECT_EQ(after.committed_ns, before.committed_ns);
  const auto entries = ReadAll();
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[1]->payload.size(), entries[1]->entry.payload_length());
  auto record = OpenRecord([&] {
    auto entry = entries[1]->entry;
    entry.set_payload(entries[1]->payload);
    return entry;
  }());
  ASSERT_TRUE(record.ok()) << record.status();
  // Versions came back too: what follows is taken, what conflicts is not.
  ExpectOk(Append({node.Chmod(file, 0600)}, 4));
  EXPECT_EQ(Append({node.Create(kRoot, "b", node.NewObject())}, 3).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_P(JournalContract, WhatIsThereIsConfirmedAgain) {
  RecordMaker node(3);
  const auto first = node.Create(kRoot, "a", node.NewObject());
  const auto second = node.Create(kRoot, "b", node.NewObject());
  const auto third = node.Create(kRoot, "c", node.NewObject());
  ExpectOk(Append({first, second}));
  if (fixture_->durable()) Reopen();
  auto again = Append({first, second});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->origin_seq, 2u);
  EXPECT_EQ(again->seq, Seq(2));
  EXPECT_EQ(Head(), 2u);
  auto overlapping = Append({second, third});
  ASSERT_TRUE(overlapping.ok()) << overlapping.status();
  EXPECT_EQ(overlapping->origin_seq, 3u);
  EXPECT_EQ(overlapping->seq, Seq(3));
  EXPECT_EQ(Head(), 3u);
  // An older one alone is answered with all that is there.
  auto old = Append({first});
  ASSERT_TRUE(old.ok());
  EXPECT_EQ(old->origin_seq, 3u);
}

TEST_P(JournalContract, AnEmptyBatchAsksWhatIsThere) {
  RecordMaker node(3);
  auto nothing = AppendEntries(3, 1, 0, {});
  ASSERT_TRUE(nothing.ok()) << nothing.status();
  EXPECT_EQ(nothing->origin_seq, 0u);
  EXPECT_EQ(nothing->seq, Seq(0));
  ExpectOk(Append({node.Create(kRoot, "a", node.NewObject())}));
  auto one = AppendEntries(3, 1, 0, {});
  ASSERT_TRUE(one.ok());
  EXPECT_EQ(one->origin_seq, 1u);
  EXPECT_EQ(one->seq, Seq(1));
}

TEST_P(JournalContract, TellsWhatItHasOfAnOrigin) {
  RecordMaker node(3), other(4);
  EXPECT_EQ(*journal_->Origin(Ordinal(3)), OriginState());
  const auto first = node.Create(kRoot, "a", node.NewObject());
  const auto second = node.Create(kRoot, "b", node.NewObject());
  ExpectOk(Append({first}));
  ExpectOk(Append({other.Create(kRoot, "c", other.NewObject())}));
  ExpectOk(Append({second}));
  ExpectOk(Append({other.Create(kRoot, "d", other.NewObject())}));
  if (fixture_->durable()) Reopen();
  auto origin = journal_->Origin(Ordinal(3));
  ASSERT_TRUE(origin.ok()) << origin.status();
  EXPECT_EQ(origin->last_origin_seq, 2u);
  EXPECT_EQ(origin->last_seq, Seq(3));
  EXPECT_EQ(origin->last_hash, Xxh3(RecordMaker::Seal(second).record()));
}

TEST_P(JournalContract, AnotherRecordUnderAKnownNameIsDataLoss) {
  RecordMaker node(3), restored(3);
  ExpectOk(Append({node.Create(kRoot, "a", node.NewObject())}));
  EXPECT_EQ(Append({restored.Create(kRoot, "b", restored.NewObject())}).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(Head(), 1u);
}

TEST_P(JournalContract, AGapIsRefused) {
  RecordMaker node(3);
  const auto first = node.Create(kRoot, "a", node.NewObject());
  const auto second = node.Create(kRoot, "b", node.NewObject());
  const absl::Status status = Append({second}).status();  // says that the first is there
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
  const auto refusal = RefusalOf(status);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason(), v1::APPEND_REFUSAL_REASON_GAP);
  EXPECT_EQ(refusal->confirmed_origin_seq(), 0u);
  EXPECT_EQ(Head(), 0u);
  ExpectOk(Append({first, second}));
}

TEST_P(JournalContract, CancelledOriginSeqsAreNoGap) {
  RecordMaker node(3);
  const auto first = node.Create(kRoot, "a", node.NewObject());
  node.SkipOriginSeq();
  node.SkipOriginSeq();
  const auto fourth = node.Create(kRoot, "b", node.NewObject());
  auto result = AppendEntries(3, 1, 0, {RecordMaker::Seal(first), RecordMaker::Seal(fourth)});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->origin_seq, 4u);
  EXPECT_EQ(result->seq, Seq(2));
}

TEST_P(JournalContract, MalformedBatchesAreRefused) {
  RecordMaker node(3);
  const auto first = RecordMaker::Seal(node.Create(kRoot, "a", node.NewObject()));
  const auto second = RecordMaker::Seal(node.Create(kRoot, "b", node.NewObject()));
  auto code = [&](uint64_t ordinal, uint64_t previous, std::vector<record::v1::Entry> entries) {
    return AppendEntries(ordinal, 1, previous, std::move(entries)).status().code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code(3, 0, {second, first}), kInvalid) << "order";
  EXPECT_EQ(code(3, 0, {first, first}), kInvalid) << "twice";
  EXPECT_EQ(code(4, 0, {first}), kInvalid) << "another origin's";
  EXPECT_EQ(code(0, 0, {}), kInvalid) << "no origin";
  EXPECT_EQ(code(3, 1, {first}), kInvalid) << "not after the previous";
  EXPECT_EQ(code(3, 0, {record::v1::Entry()}), kInvalid) << "empty";
  auto broken = first;
  broken.mutable_record()->resize(broken.record().size() / 2);
  EXPECT_EQ(code(3, 0, {broken}), kInvalid);
  const uint64_t file = node.NewObject();
  auto write = RecordMaker::Seal(node.Write(file, 0, 5), "hello");
  write.set_payload("hellO");
  EXPECT_EQ(code(3, 0, {first, second, write}), kInvalid) << "payload";
  write.clear_payload();
  EXPECT_EQ(code(3, 0, {first, second, write}), kInvalid) << "payload left out";
  EXPECT_EQ(code(3, 0, std::vector<record::v1::Entry>(kMaxBatchRecords + 1, first)), kInvalid);
  EXPECT_EQ(Head(), 0u);
}

TEST_P(JournalContract, EpochsFence) {
  RecordMaker node(3);
  const auto first = node.Create(kRoot, "a", node.NewObject());
  const auto second = node.Create(kRoot, "b", node.NewObject());
  ExpectOk(Append({first}, 5));
  auto head = Fence(6);
  ASSERT_TRUE(head.ok()) << head.status();
  EXPECT_EQ(*head, Seq(1));
  EXPECT_EQ(Fence(5).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Fence(6).ok()) << "idempotent";
  if (fixture_->durable()) Reopen();
  const absl::Status stale = Append({second}, 5).status();
  EXPECT_EQ(stale.code(), absl::StatusCode::kFailedPrecondition) << stale;
  const auto refusal = RefusalOf(stale);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->reason(), v1::APPEND_REFUSAL_REASON_STALE_EPOCH);
  EXPECT_EQ(refusal->epoch(), 6u);
  EXPECT_EQ(Head(), 1u);
  ExpectOk(Append({second}, 8));
  EXPECT_EQ(journal_->State().epoch, Epoch(8)) << "a higher epoch raises it";
  // Even what is there already is not confirmed to a stale writer.
  EXPECT_EQ(Append({first, second}, 7).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_P(JournalContract, ReadsAreBoundedAndDense) {
  RecordMaker node(3);
  const uint64_t file = node.NewObject();
  ExpectOk(Append({node.Create(kRoot, "a", file)}));
  for (int i = 0; i < 9; ++i) ExpectOk(Append({node.Write(file, 0, 1000)}));
  if (fixture_->durable()) Reopen();
  ReadOptions options = Everything();
  options.max_records = 4;
  EXPECT_EQ(journal_->Read(Seq(1), options)->size(), 4u);
  EXPECT_EQ(journal_->Read(Seq(9), options)->size(), 2u);
  EXPECT_EQ(journal_->Read(Seq(11), options)->size(), 0u);
  EXPECT_EQ(journal_->Read(Seq(12), options).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(journal_->Read(Seq(0), options).status().code(), absl::StatusCode::kOutOfRange);
  options = Everything();
  options.max_bytes = 1;
  EXPECT_EQ(journal_->Read(Seq(3), options)->size(), 1u) << "at least one";
}

TEST_P(JournalContract, PayloadsAreLeftOutOnRequest) {
  RecordMaker mine(3), theirs(4);
  const uint64_t file = mine.NewObject();
  ExpectOk(Append({mine.Create(kRoot, "a", file), mine.Write(file, 0, 50)}));
  theirs.Learn(mine);
  ExpectOk(Append({theirs.Write(file, 0, 60)}));
  for (bool reopened : {false, true}) {
    if (reopened && fixture_->durable()) Reopen();
    ReadOptions options = Everything();
    options.skip_payloads_of = Ordinal(3);
    auto entries = journal_->Read(Seq(1), options);
    ASSERT_TRUE(entries.ok());
    ASSERT_EQ(entries->size(), 3u);
    // A journal may hand out more than asked for; what is to be skipped is told by Skips.
    EXPECT_TRUE(options.Skips((*entries)[1]->version));
    EXPECT_FALSE(options.Skips((*entries)[2]->version));
    EXPECT_EQ((*entries)[1]->entry.payload_length(), 50u);
    EXPECT_EQ((*entries)[2]->payload, std::string(60, 'x'));
  }
}

TEST_P(JournalContract, TrimsBehindTheSlowestReplica) {
  RecordMaker node(3);
  for (int i = 0; i < 10; ++i) {
    ExpectOk(Append({node.Create(kRoot, absl::StrCat("f", i), node.NewObject())}));
  }
  const std::string chain_at_4 = *journal_->ChainAt(Seq(4));
  clock().Advance(absl::Seconds(1));
  EXPECT_EQ(*journal_->Trim(), 0u) << "no replica is registered: everything stays";
  EXPECT_TRUE(journal_->SetCursors({{"a", Seq(7)}, {"b", Seq(4)}}).ok());
  EXPECT_EQ(*journal_->Trim(), 4u);
  for (bool reopened : {false, true}) {
    if (reopened && fixture_->durable()) Reopen();
    EXPECT_EQ(journal_->State().first, Seq(5));
    EXPECT_EQ(journal_->Read(Seq(4), Everything()).status().code(), absl::StatusCode::kOutOfRange);
    EXPECT_EQ(ReadAll(5).size(), 6u);
    EXPECT_EQ(*journal_->ChainAt(Seq(4)), chain_at_4) << "a reader at the edge is still checked";
    EXPECT_EQ(journal_->ChainAt(Seq(3)).status().code(), absl::StatusCode::kOutOfRange);
    EXPECT_EQ(*journal_->Trim(), 0u) << "the cursors are kept";
  }
  EXPECT_TRUE(journal_->SetCursors({{"a", Seq(10)}, {"b", Seq(10)}}).ok());
  EXPECT_EQ(*journal_->Trim(), 6u);
  EXPECT_EQ(journal_->State().first, Seq(11));
  EXPECT_EQ(journal_->State().trimmed_bytes, journal_->State().head_bytes);
  EXPECT_TRUE(journal_->Read(Seq(11), Everything())->empty());
  ExpectOk(Append({node.Create(kRoot, "more", node.NewObject())}));
  EXPECT_EQ(ReadAll(11).size(), 1u);
}

// Registered readers get every record whole while it is trimmed right behind them. One that is not
// registered gets whole records in order until it is too late, and then OUT_OF_RANGE, nothing else.
TEST_P(JournalContract, TrimmingTakesNothingFromARunningReader) {
  constexpr uint64_t kRecords = 1500;
  RecordMaker node(3);
  const uint64_t file = node.NewObject();
  ExpectOk(Append({node.Create(kRoot, "a", file)}));
  while (Head() < kRecords) {
    std::vector<Record> batch;
    for (uint64_t i = Head(); i < kRecords && batch.size() < 50; ++i) {
      batch.push_back(node.Write(file, 0, 200));
    }
    ExpectOk(Append(batch));
  }
  if (fixture_->durable()) Reopen();  // nothing is cached: the disk is read
  absl::Mutex mu;
  std::map<std::string, Seq> applied = {{"fast", Seq(0)}, {"slow", Seq(0)}};
  auto publish = [&] {
    std::vector<Cursor> cursors;
    for (const auto& [reader, seq] : applied) cursors.push_back({reader, seq});
    EXPECT_TRUE(journal_->SetCursors(std::move(cursors)).ok());
  };
  publish();
  // Reads once from `next` on; what comes is whole and in order.
  auto read = [&](uint64_t& next, size_t records) {
    ReadOptions options = Everything();
    options.max_records = records;
    auto entries = journal_->Read(Seq(next), options);
    if (!entries.ok()) return entries.status();
    for (const EntryPtr& each : *entries) {
      EXPECT_EQ(each->entry.seq(), next++);
      EXPECT_EQ(each->payload.size(), each->entry.payload_length());
    }
    return absl::OkStatus();
  };
  std::atomic<int> running = 2;
  auto registered = [&](const std::string& name, size_t records) {
    for (uint64_t next = 1; next <= kRecords;) {
      const absl::Status status = read(next, records);
      EXPECT_TRUE(status.ok()) << name << " at " << next << ": " << status;
      if (!status.ok()) break;
      absl::MutexLock lock(&mu);
      applied[name] = Seq(next - 1);
      publish();
    }
    --running;
  };
  uint64_t refused = 0;
  uint64_t trimmed = 0;
  {
    std::jthread fast([&] { registered("fast", 40); });
    std::jthread slow([&] { registered("slow", 25); });
    std::jthread stranger([&] {
      while (running > 0) {
        uint64_t next = journal_->State().first.value();
        absl::Status status;
        while (status.ok() && next <= kRecords && running > 0) status = read(next, 10);
        if (status.ok()) continue;
        EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange) << status;
        ++refused;
      }
    });
    while (running > 0) {
      clock().Advance(absl::Milliseconds(1));
      auto count = journal_->Trim();
      EXPECT_TRUE(count.ok()) << count.status();
      if (!count.ok()) break;
      trimmed += *count;
    }
  }
  clock().Advance(absl::Milliseconds(1));
  trimmed += *journal_->Trim();
  EXPECT_EQ(trimmed, kRecords);
  EXPECT_EQ(journal_->State().first, Seq(kRecords + 1));
  uint64_t next = 1;
  EXPECT_EQ(read(next, 10).code(), absl::StatusCode::kOutOfRange);
  RecordProperty("refused", static_cast<int>(refused));
}

TEST_P(JournalContract, RetentionKeepsWhatEveryReplicaHas) {
  const auto other = *CollectionName::Parse("slow");
  ASSERT_TRUE(store().Create(other, 8, absl::Hours(1)).ok());
  journal_ = *store().Find(other);
  RecordMaker node(3);
  ExpectOk(Append({node.Create(kRoot, "a", node.NewObject())}));
  clock().Advance(absl::Minutes(40));
  ExpectOk(Append({node.Create(kRoot, "b", node.NewObject())}));
  EXPECT_TRUE(journal_->SetCursors({{"a", Seq(2)}}).ok());
  EXPECT_EQ(*journal_->Trim(), 0u);
  clock().Advance(absl::Minutes(40));
  EXPECT_EQ(*journal_->Trim(), 1u);
  EXPECT_EQ(journal_->State().first, Seq(2));
}

TEST_P(JournalContract, WatchersHearOfEveryCommit) {
  absl::Mutex mu;
  Seq seen;
  const WatchId id = journal_->Watch([&](const JournalEvent& event) {
    absl::MutexLock lock(&mu);
    seen = std::max(seen, event.head);
  });
  RecordMaker node(3);
  for (uint64_t i = 1; i <= 5; ++i) {
    ExpectOk(Append({node.Create(kRoot, absl::StrCat("f", i), node.NewObject())}));
    absl::MutexLock lock(&mu);
    const auto heard = [&] { return seen >= Seq(i); };
    EXPECT_TRUE(mu.AwaitWithTimeout(absl::Condition(&heard), absl::Seconds(30)));
  }
  journal_->Unwatch(id);
}

TEST_P(JournalContract, CollectionsAreCreatedAndDeleted) {
  EXPECT_TRUE(store().Create(name(), 7, absl::ZeroDuration()).ok()) << "idempotent";
  EXPECT_EQ(store().Create(name(), 9, absl::ZeroDuration()).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(store().Create(*CollectionName::Parse("other"), 7, absl::ZeroDuration()).code(),
            absl::StatusCode::kAlreadyExists);
  RecordMaker node(3);
  const auto record = node.Create(kRoot, "a", node.NewObject());
  ExpectOk(Append({record}));
  absl::Notification told;
  journal_->Watch([&](const JournalEvent& event) {
    if (event.deleted && !told.HasBeenNotified()) told.Notify();
  });
  EXPECT_TRUE(store().Delete(name()).ok());
  EXPECT_TRUE(told.WaitForNotificationWithTimeout(absl::Seconds(30)));
  EXPECT_TRUE(store().Delete(name()).ok()) << "idempotent";
  EXPECT_EQ(Append({record}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(journal_->Read(Seq(1), Everything()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store().Find(name()).status().code(), absl::StatusCode::kNotFound);
  // A new one under the same name and uid begins empty.
  EXPECT_TRUE(store().Create(name(), 7, absl::ZeroDuration()).ok());
  if (fixture_->durable()) {
    Reopen();
  } else {
    Attach();
  }
  EXPECT_EQ(Head(), 0u);
  ExpectOk(Append({record}));
  EXPECT_EQ(ReadAll().size(), 1u);
}

TEST_P(JournalContract, ManyAppendersAtOnce) {
  constexpr int kNodes = 8;
  constexpr int kBatches = 60;
  std::atomic<int> confirmed = 0;
  std::vector<std::thread> threads;
  for (int n = 0; n < kNodes; ++n) {
    threads.emplace_back([&, n] {
      RecordMaker node(10 + n);
      absl::Mutex mu;
      int waiting = 0;
      for (int i = 0; i < kBatches; ++i) {
        std::vector<record::v1::Entry> entries;
        const uint64_t previous = node.last_origin_seq();
        const uint64_t file = node.NewObject();
        entries.push_back(
            RecordMaker::Seal(node.Create(kRoot, absl::StrCat("n", n, "-", i), file)));
        entries.push_back(RecordMaker::Seal(node.Write(file, 0, 3), "abc"));
        auto batch = PrepareBatch(Ordinal(10 + n), Epoch(1), previous, std::move(entries));
        ASSERT_TRUE(batch.ok()) << batch.status();
        {
          absl::MutexLock lock(&mu);
          ++waiting;
        }
        // Many in flight, in order, as a stream has them.
        journal_->Append(*std::move(batch), [&](absl::StatusOr<Confirmation> result) {
          EXPECT_TRUE(result.ok()) << result.status();
          if (result.ok()) ++confirmed;
          absl::MutexLock lock(&mu);
          --waiting;
        });
      }
      absl::MutexLock lock(&mu);
      const auto all = [&] { return waiting == 0; };
      mu.Await(absl::Condition(&all));
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(confirmed, kNodes * kBatches);
  if (fixture_->durable()) Reopen();
  const auto entries = ReadAll();
  ASSERT_EQ(entries.size(), static_cast<size_t>(kNodes * kBatches * 2));
  std::map<uint64_t, uint64_t> last;
  std::string chain;
  for (size_t i = 0; i < entries.size(); ++i) {
    chain = ChainHash(chain, Seq(i + 1), entries[i]->entry.record());
    ASSERT_EQ(entries[i]->entry.chain(), chain);
    uint64_t& before = last[entries[i]->version.ordinal().value()];
    ASSERT_EQ(entries[i]->version.counter(), before + 1);
    before = entries[i]->version.counter();
  }
}

}  // namespace
}  // namespace intermezzo::journal
