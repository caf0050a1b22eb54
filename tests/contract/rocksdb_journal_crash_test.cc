// Promise 5 at the server: what was confirmed is there after a power cut at any moment, and a disk
// that is full or broken loses and halves nothing.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "services/common/record/codec.h"
#include "services/journal-service/core/admission.h"
#include "services/journal-service/memory/memory_journal.h"
#include "services/journal-service/rocksdb/rocksdb_journal_store.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/record_maker.h"
#include "tests/support/temp_dir.h"

namespace intermezzo::journal {
namespace {

using tests::RecordMaker;
constexpr uint64_t kRoot = 1;

CollectionName Www() { return *CollectionName::Parse("www"); }

std::unique_ptr<RocksDbJournalStore> OpenStore(const std::string& dir, rocksdb::Env* env) {
  RocksDbJournalStore::Options options;
  options.database.dir = dir;
  options.database.env = env;
  options.clock = [] { return absl::Now(); };
  options.maintenance_interval = absl::InfiniteDuration();
  options.limits.recovery_pause = absl::ZeroDuration();
  auto store = RocksDbJournalStore::Open(std::move(options));
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

absl::StatusOr<Confirmation> Append(Journal& journal, uint64_t ordinal, uint64_t previous,
                                    std::vector<record::v1::Entry> entries) {
  auto batch = PrepareBatch(Ordinal(ordinal), Epoch(1), previous, std::move(entries));
  if (!batch.ok()) return batch.status();
  absl::Notification finished;
  absl::StatusOr<Confirmation> result;
  journal.Append(*std::move(batch), [&](absl::StatusOr<Confirmation> confirmation) {
    result = std::move(confirmation);
    finished.Notify();
  });
  finished.WaitForNotification();
  return result;
}

// Everything in the journal, replayed into one in memory: it must take each record and come to the
// same chain. Answers the last origin seq of each origin.
std::map<uint64_t, uint64_t> CheckWhole(Journal& journal) {
  MemoryJournalStore model([] { return absl::Now(); });
  EXPECT_TRUE(model.Create(Www(), 1, absl::ZeroDuration()).ok());
  auto replayed = *model.Find(Www());
  std::map<uint64_t, uint64_t> last;
  ReadOptions options;
  options.max_bytes = kMaxBatchBytes;
  options.max_records = kMaxBatchRecords;
  for (Seq next(1); next <= journal.State().head;) {
    auto entries = journal.Read(next, options);
    if (!entries.ok()) {
      ADD_FAILURE() << entries.status();
      return last;
    }
    for (const EntryPtr& stored : *entries) {
      EXPECT_EQ(stored->entry.seq(), next.value());
      next = next.next();
      auto entry = stored->entry;
      entry.set_payload(stored->payload);
      uint64_t& origin_seq = last[stored->version.ordinal().value()];
      auto taken = Append(*replayed, stored->version.ordinal().value(), origin_seq, {entry});
      EXPECT_TRUE(taken.ok()) << taken.status();
      origin_seq = stored->version.counter();
    }
  }
  EXPECT_EQ(replayed->State().head_chain, journal.State().head_chain);
  EXPECT_EQ(replayed->State().head_bytes, journal.State().head_bytes);
  return last;
}

class CrashTest : public ::testing::Test {
 protected:
  CrashTest() : env_(rocksdb::NewCompositeEnv(files_)) {
    store_ = OpenStore(dir_.path() + "/live", env_.get());
    EXPECT_TRUE(store_->Create(Www(), 7, absl::ZeroDuration()).ok());
    journal_ = *store_->Find(Www());
  }
  ~CrashTest() override {
    journal_.reset();
    store_.reset();
  }

  // What a power cut now would leave, opened.
  std::unique_ptr<RocksDbJournalStore> AfterPowerCut() {
    const std::string copy = absl::StrCat(dir_.path(), "/copy", copies_++);
    files_->CopySynced(dir_.path() + "/live", copy);
    return OpenStore(copy, nullptr);
  }
  absl::StatusOr<Confirmation> Create(RecordMaker& node, uint64_t ordinal,
                                      const std::string& name) {
    const uint64_t previous = node.last_origin_seq();
    return Append(*journal_, ordinal, previous,
                  {RecordMaker::Seal(node.Create(kRoot, name, node.NewObject()))});
  }

  tests::TempDir dir_;
  int copies_ = 0;
  std::shared_ptr<tests::FaultyFileSystem> files_ = std::make_shared<tests::FaultyFileSystem>();
  std::unique_ptr<rocksdb::Env> env_;
  std::unique_ptr<RocksDbJournalStore> store_;
  std::shared_ptr<Journal> journal_;
};

TEST_F(CrashTest, TheHarnessDropsWhatWasNotSynced) {
  // The test below would prove nothing if copies held unsynced bytes.
  std::unique_ptr<rocksdb::WritableFile> file;
  const std::string path = dir_.path() + "/live/some.file";
  ASSERT_TRUE(env_->NewWritableFile(path, &file, rocksdb::EnvOptions()).ok());
  ASSERT_TRUE(file->Append("kept").ok());
  ASSERT_TRUE(file->Sync().ok());
  ASSERT_TRUE(file->Append("lost").ok());
  ASSERT_TRUE(file->Flush().ok());
  files_->CopySynced(dir_.path() + "/live", dir_.path() + "/c");
  EXPECT_EQ(std::filesystem::file_size(dir_.path() + "/c/some.file"), 4u);
}

TEST_F(CrashTest, WhatWasConfirmedIsThereAfterAPowerCut) {
  constexpr int kNodes = 4;
  std::atomic<bool> stop = false;
  std::array<std::atomic<uint64_t>, kNodes> confirmed{};
  std::vector<std::thread> threads;
  for (int n = 0; n < kNodes; ++n) {
    threads.emplace_back([&, n] {
      RecordMaker node(10 + n);
      const std::string payload(20'000, 'p');
      for (int i = 0; !stop; ++i) {
        const uint64_t previous = node.last_origin_seq();
        const uint64_t file = node.NewObject();
        std::vector<record::v1::Entry> entries;
        entries.push_back(RecordMaker::Seal(node.Create(kRoot, absl::StrCat(n, "-", i), file)));
        entries.push_back(RecordMaker::Seal(node.Write(file, 0, payload.size()), payload));
        auto result = Append(*journal_, 10 + n, previous, std::move(entries));
        ASSERT_TRUE(result.ok()) << result.status();
        confirmed[n] = result->origin_seq;
      }
    });
  }
  const auto all_went_on = [&](uint64_t since) {
    for (auto& last : confirmed) {
      if (last < since) return false;
    }
    return true;
  };
  for (int cut = 1; cut <= 8; ++cut) {
    while (!all_went_on(cut * 10)) std::this_thread::yield();
    if (cut == 4) {  // also with tables and a fresh log
      ASSERT_TRUE(store_->database()
                      .db()
                      .Flush(rocksdb::FlushOptions(), store_->database().family(Family::kEntries))
                      .ok());
    }
    std::array<uint64_t, kNodes> before;
    for (int n = 0; n < kNodes; ++n) before[n] = confirmed[n];
    auto after = AfterPowerCut();
    ASSERT_NE(after, nullptr);
    auto journal = after->Find(Www());
    ASSERT_TRUE(journal.ok());
    auto last = CheckWhole(**journal);
    for (int n = 0; n < kNodes; ++n) EXPECT_GE(last[10 + n], before[n]) << "node " << n;
  }
  stop = true;
  for (auto& thread : threads) thread.join();
}

TEST_F(CrashTest, AFenceSurvives) {
  absl::Notification finished;
  journal_->Fence(Epoch(9), [&](absl::StatusOr<Seq> head) {
    EXPECT_TRUE(head.ok()) << head.status();
    finished.Notify();
  });
  finished.WaitForNotification();
  auto after = AfterPowerCut();
  EXPECT_EQ((*after->Find(Www()))->State().epoch, Epoch(9));
}

TEST_F(CrashTest, AFullDiskRefusesAndRecovers) {
  RecordMaker node(3);
  ASSERT_TRUE(Create(node, 3, "a").ok());
  const uint64_t previous = node.last_origin_seq();
  const auto entry = RecordMaker::Seal(node.Create(kRoot, "b", node.NewObject()));
  files_->no_space = true;
  for (int i = 0; i < 3; ++i) {
    const absl::Status status = Append(*journal_, 3, previous, {entry}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_EQ(journal_->State().head, Seq(1));
  }
  files_->no_space = false;
  auto result = Append(*journal_, 3, previous, {entry});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->seq, Seq(2));
  CheckWhole(*journal_);
  auto after = AfterPowerCut();
  ASSERT_NE(after, nullptr);
  EXPECT_EQ(CheckWhole(**after->Find(Www()))[3], 2u);
}

TEST_F(CrashTest, AFailedSyncConfirmsNothingAndRecovers) {
  RecordMaker node(3);
  ASSERT_TRUE(Create(node, 3, "a").ok());
  const uint64_t previous = node.last_origin_seq();
  const auto entry = RecordMaker::Seal(node.Create(kRoot, "b", node.NewObject()));
  files_->broken_sync = true;
  const absl::Status status = Append(*journal_, 3, previous, {entry}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(journal_->State().head, Seq(1));
  files_->broken_sync = false;
  // The record was written, not synced, and may be there or not; a retry finds out.
  RecordMaker other(4);
  auto first = Create(other, 4, "c");
  ASSERT_TRUE(first.ok()) << first.status();
  auto retried = Append(*journal_, 3, previous, {entry});
  ASSERT_TRUE(retried.ok()) << retried.status();
  EXPECT_EQ(retried->origin_seq, 2u);
  EXPECT_EQ(journal_->State().head, Seq(3));
  CheckWhole(*journal_);
  auto after = AfterPowerCut();
  ASSERT_NE(after, nullptr);
  auto last = CheckWhole(**after->Find(Www()));
  EXPECT_EQ(last[3], 2u);
  EXPECT_EQ(last[4], 1u);
}

}  // namespace
}  // namespace intermezzo::journal
