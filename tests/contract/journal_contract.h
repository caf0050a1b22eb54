// What every Journal must do, run on the one in memory and the one in RocksDB.
//
// A fixture provides a store, can close and open it again (where it keeps anything: `durable`), and
// has a clock that only the test moves.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "services/common/record/codec.h"
#include "services/journal-service/core/admission.h"
#include "services/journal-service/core/journal.h"
#include "services/journal-service/core/refusal.h"
#include "tests/support/record_maker.h"

namespace intermezzo::journal {

class FakeClock {
 public:
  absl::Time now() const {
    absl::MutexLock lock(&mu_);
    return now_;
  }
  void Advance(absl::Duration by) {
    absl::MutexLock lock(&mu_);
    now_ += by;
  }
  Clock clock() {
    return [this] { return now(); };
  }

 private:
  mutable absl::Mutex mu_;
  absl::Time now_ ABSL_GUARDED_BY(mu_) = absl::FromUnixSeconds(1'700'000'000);
};

class JournalFixture {
 public:
  virtual ~JournalFixture() = default;
  virtual JournalStore& store() = 0;
  virtual bool durable() const = 0;
  // Closes and opens again; pointers to journals are void.
  virtual void Reopen() = 0;
  FakeClock clock;
};

using FixtureMaker = std::unique_ptr<JournalFixture> (*)();

class JournalContract : public ::testing::TestWithParam<FixtureMaker> {
 protected:
  using Record = record::v1::Record;
  static constexpr uint64_t kRoot = 1;

  JournalContract() : fixture_(GetParam()()) {
    EXPECT_TRUE(store().Create(name(), 7, absl::ZeroDuration()).ok());
    Attach();
  }

  JournalStore& store() { return fixture_->store(); }
  FakeClock& clock() { return fixture_->clock; }
  static CollectionName name() { return *CollectionName::Parse("www"); }
  void Attach() {
    auto found = store().Find(name());
    ASSERT_TRUE(found.ok()) << found.status();
    journal_ = *found;
  }
  void Reopen() {
    journal_ = nullptr;
    fixture_->Reopen();
    Attach();
  }

  absl::StatusOr<Confirmation> AppendEntries(uint64_t ordinal, uint64_t epoch, uint64_t previous,
                                             std::vector<record::v1::Entry> entries) {
    auto batch = PrepareBatch(Ordinal(ordinal), Epoch(epoch), previous, std::move(entries));
    if (!batch.ok()) return batch.status();
    absl::Notification finished;
    absl::StatusOr<Confirmation> result;
    journal_->Append(*std::move(batch), [&](absl::StatusOr<Confirmation> confirmation) {
      result = std::move(confirmation);
      finished.Notify();
    });
    finished.WaitForNotification();
    return result;
  }
  absl::StatusOr<Confirmation> Append(const std::vector<Record>& records, uint64_t epoch = 1) {
    std::vector<record::v1::Entry> entries;
    for (const Record& record : records) {
      std::string payload;
      if (record.has_write()) payload.assign(record.write().extents(0).length(), 'x');
      entries.push_back(tests::RecordMaker::Seal(record, payload));
    }
    const Version first(records.front().version());
    return AppendEntries(first.ordinal().value(), epoch, first.counter() - 1, std::move(entries));
  }
  absl::StatusOr<Seq> Fence(uint64_t epoch) {
    absl::Notification finished;
    absl::StatusOr<Seq> result;
    journal_->Fence(Epoch(epoch), [&](absl::StatusOr<Seq> head) {
      result = std::move(head);
      finished.Notify();
    });
    finished.WaitForNotification();
    return result;
  }
  static ReadOptions Everything() {
    ReadOptions options;
    options.max_bytes = kMaxBatchBytes;
    options.max_records = kMaxBatchRecords;
    return options;
  }
  // All entries from `from` on, over as many reads as it takes.
  std::vector<EntryPtr> ReadAll(uint64_t from = 1) {
    std::vector<EntryPtr> all;
    while (true) {
      auto some = journal_->Read(Seq(from + all.size()), Everything());
      EXPECT_TRUE(some.ok()) << some.status();
      if (!some.ok() || some->empty()) return all;
      all.insert(all.end(), some->begin(), some->end());
    }
  }
  uint64_t Head() { return journal_->State().head.value(); }

  // The batch is refused as a conflict of that kind, and nothing has changed.
  void ExpectConflict(const std::vector<Record>& records, v1::AppendRefusalReason reason,
                      uint32_t index = 0) {
    const JournalState before = journal_->State();
    const absl::Status status = Append(records).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
    const auto refusal = RefusalOf(status);
    ASSERT_TRUE(refusal) << status;
    EXPECT_EQ(refusal->reason(), reason) << status;
    EXPECT_EQ(refusal->record_index(), index) << status;
    EXPECT_EQ(journal_->State().head, before.head);
    EXPECT_EQ(journal_->State().head_chain, before.head_chain);
    EXPECT_EQ(journal_->State().epoch, before.epoch);
  }
  void ExpectOk(const absl::StatusOr<Confirmation>& result) {
    EXPECT_TRUE(result.ok()) << result.status();
  }

  std::unique_ptr<JournalFixture> fixture_;
  std::shared_ptr<Journal> journal_;
};

}  // namespace intermezzo::journal
