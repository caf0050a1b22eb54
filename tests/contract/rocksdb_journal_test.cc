#include "services/journal-service/rocksdb/rocksdb_journal_store.h"
#include "tests/contract/journal_contract.h"
#include "tests/support/temp_dir.h"

namespace intermezzo::journal {
namespace {

class RocksDbFixture final : public JournalFixture {
 public:
  RocksDbFixture() { Open(); }
  JournalStore& store() override { return *store_; }
  bool durable() const override { return true; }
  void Reopen() override {
    store_.reset();
    Open();
  }

 private:
  void Open() {
    RocksDbJournalStore::Options options;
    options.database.dir = dir_.path();
    options.clock = clock.clock();
    options.maintenance_interval = absl::InfiniteDuration();  // tests trim by themselves
    auto store = RocksDbJournalStore::Open(std::move(options));
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  tests::TempDir dir_;
  std::unique_ptr<RocksDbJournalStore> store_;
};

}  // namespace

extern const FixtureMaker kJournalFixture;
const FixtureMaker kJournalFixture = []() -> std::unique_ptr<JournalFixture> {
  return std::make_unique<RocksDbFixture>();
};

}  // namespace intermezzo::journal
