#include "services/journal-service/memory/memory_journal.h"

#include "tests/contract/journal_contract.h"

namespace intermezzo::journal {
namespace {

class MemoryFixture final : public JournalFixture {
 public:
  JournalStore& store() override { return store_; }
  bool durable() const override { return false; }
  void Reopen() override { FAIL() << "a journal in memory does not survive"; }

 private:
  MemoryJournalStore store_{clock.clock()};
};

}  // namespace

extern const FixtureMaker kJournalFixture;
const FixtureMaker kJournalFixture = []() -> std::unique_ptr<JournalFixture> {
  return std::make_unique<MemoryFixture>();
};

}  // namespace intermezzo::journal
