// The contract, continued: every kind of version conflict and every refusal by the tree's shape.
#include "tests/contract/journal_contract.h"

namespace intermezzo::journal {
namespace {

using tests::RecordMaker;
constexpr auto kVersion = v1::APPEND_REFUSAL_REASON_VERSION;
constexpr auto kStructure = v1::APPEND_REFUSAL_REASON_STRUCTURE;

// Two nodes that both know a tree: directory `dir` with file `file` as "f", file `other` as "o" in
// the root, empty directory `empty` in the root.
class JournalConflicts : public JournalContract {
 protected:
  JournalConflicts() {
    ExpectOk(Append({a_.Mkdir(kRoot, "dir", dir_), a_.Create(dir_, "f", file_),
                     a_.Create(kRoot, "o", other_), a_.Mkdir(kRoot, "empty", empty_)}));
    b_.Learn(a_);
  }

  // One more node that knows what `b_` knows.
  RecordMaker Another() {
    RecordMaker node(next_ordinal_++);
    node.Learn(b_);
    return node;
  }

  uint64_t next_ordinal_ = 5;
  RecordMaker a_{3}, b_{4};
  const uint64_t dir_ = a_.NewObject();
  const uint64_t file_ = a_.NewObject();
  const uint64_t other_ = a_.NewObject();
  const uint64_t empty_ = a_.NewObject();
};

TEST_P(JournalConflicts, UpdateUpdate) {
  ExpectOk(Append({a_.Write(file_, 0, 3)}));
  const auto late = b_.Write(file_, 0, 3);
  ExpectConflict({late}, kVersion);
  const auto refusal = RefusalOf(Append({late}).status());
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->touch().object(), file_);
  EXPECT_EQ(refusal->touch().against(), Version(Ordinal(3), 2).value());
  EXPECT_EQ(refusal->actual_version(), Version(Ordinal(3), 5).value());
  EXPECT_EQ(refusal->collection(), "www");
}

TEST_P(JournalConflicts, TruncateAgainstWrite) {
  ExpectOk(Append({a_.Write(file_, 0, 3)}));
  ExpectConflict({b_.Truncate(file_, 0)}, kVersion);
}

TEST_P(JournalConflicts, AttributesAgainstAttributes) {
  ExpectOk(Append({a_.Chmod(file_, 0600)}));
  ExpectConflict({b_.Chmod(file_, 0640)}, kVersion);
}

TEST_P(JournalConflicts, DataAndAttributesDoNotConflict) {
  ExpectOk(Append({a_.Chmod(file_, 0600)}));
  ExpectOk(Append({b_.Write(file_, 0, 3)}));
}

TEST_P(JournalConflicts, DifferentNamesDoNotConflict) {
  ExpectOk(Append({a_.Create(dir_, "x", a_.NewObject())}));
  ExpectOk(Append({b_.Create(dir_, "y", b_.NewObject())}));
}

TEST_P(JournalConflicts, NameName) {
  ExpectOk(Append({a_.Create(dir_, "x", a_.NewObject())}));
  ExpectConflict({b_.Create(dir_, "x", b_.NewObject())}, kVersion);
}

TEST_P(JournalConflicts, UpdateRemoved) {
  ExpectOk(Append({a_.Remove(dir_, "f", file_)}));
  ExpectConflict({b_.Write(file_, 0, 3)}, kVersion);
}

TEST_P(JournalConflicts, RemoveUpdated) {
  ExpectOk(Append({a_.Write(file_, 0, 3)}));
  ExpectConflict({b_.Remove(dir_, "f", file_)}, kVersion);
}

TEST_P(JournalConflicts, RenameRename) {
  ExpectOk(Append({a_.Rename(file_, dir_, "f", kRoot, "g")}));
  ExpectConflict({b_.Rename(file_, dir_, "f", kRoot, "h")}, kVersion);
}

TEST_P(JournalConflicts, RenameOverUpdated) {
  ExpectOk(Append({a_.Write(other_, 0, 3)}));
  ExpectConflict(
      {b_.Rename(file_, dir_, "f", kRoot, "o", {.replaced = other_, .replaced_last = true})},
      kVersion);
}

TEST_P(JournalConflicts, TheConflictingRecordIsNamedAndNothingOfTheBatchIsKept) {
  ExpectOk(Append({a_.Write(file_, 0, 3)}));
  const auto good = b_.Create(kRoot, "new", b_.NewObject());
  const auto bad = b_.Write(file_, 0, 3);
  ExpectConflict({good, bad}, kVersion, 1);
  ExpectOk(Append({good}));
}

TEST_P(JournalConflicts, CreateBelowRemovedDirectory) {
  ExpectOk(Append({a_.Remove(kRoot, "empty", empty_, true)}));
  ExpectConflict({b_.Create(empty_, "x", b_.NewObject())}, kStructure);
}

TEST_P(JournalConflicts, CreateBelowAFile) {
  ExpectConflict({b_.Create(file_, "x", b_.NewObject())}, kStructure);
}

TEST_P(JournalConflicts, LinkBelowRemovedDirectory) {
  ExpectOk(Append({a_.Remove(kRoot, "empty", empty_, true)}));
  ExpectConflict({b_.Link(file_, empty_, "x")}, kStructure);
}

TEST_P(JournalConflicts, LinkOfADirectory) {
  ExpectConflict({b_.Link(dir_, kRoot, "x")}, kStructure);
}

TEST_P(JournalConflicts, RemoveNonEmptyDirectory) {
  ExpectConflict({Another().Remove(kRoot, "dir", dir_, true)}, kStructure);
  // It was empty when `b_` saw it; another name is no version conflict.
  ExpectOk(Append({a_.Create(empty_, "x", a_.NewObject())}));
  ExpectConflict({Another().Remove(kRoot, "empty", empty_, true)}, kStructure);
}

TEST_P(JournalConflicts, DirectoryIsEmptyAgain) {
  ExpectOk(Append({a_.Remove(dir_, "f", file_), a_.Remove(kRoot, "dir", dir_, true)}));
}

TEST_P(JournalConflicts, ReplaceNonEmptyDirectory) {
  ExpectConflict(
      {b_.Rename(empty_, kRoot, "empty", kRoot, "dir", {.replaced = dir_, .replaced_last = true})},
      kStructure);
}

TEST_P(JournalConflicts, ReplaceADirectoryByAFile) {
  ExpectConflict(
      {b_.Rename(other_, kRoot, "o", kRoot, "empty", {.replaced = empty_, .replaced_last = true})},
      kStructure);
}

TEST_P(JournalConflicts, DirectoryBelowItself) {
  ExpectOk(Append({a_.Rename(empty_, kRoot, "empty", dir_, "empty")}));
  ExpectConflict({b_.Rename(dir_, kRoot, "dir", empty_, "dir")}, kStructure);
}

TEST_P(JournalConflicts, RenameIntoRemovedDirectory) {
  ExpectOk(Append({a_.Remove(kRoot, "empty", empty_, true)}));
  ExpectConflict({b_.Rename(file_, dir_, "f", empty_, "f")}, kStructure);
}

TEST_P(JournalConflicts, ExchangeThatMakesACycle) {
  const uint64_t deep = a_.NewObject();
  ExpectOk(Append({a_.Mkdir(dir_, "deep", deep)}));
  b_.Learn(a_);
  // dir would take the place of dir/deep.
  ExpectConflict(
      {b_.Rename(deep, dir_, "deep", kRoot, "dir", {.replaced = dir_, .exchange = true})},
      kStructure);
}

TEST_P(JournalConflicts, TheEntryNamesAnotherObject) {
  ExpectConflict({Another().Remove(dir_, "f", other_)}, kStructure);
  ExpectConflict({Another().Rename(other_, dir_, "f", kRoot, "g")}, kStructure);
}

TEST_P(JournalConflicts, RmdirOfAFileAndUnlinkOfADirectory) {
  ExpectConflict({Another().Remove(dir_, "f", file_, true)}, kStructure);
  ExpectConflict({Another().Remove(kRoot, "empty", empty_, false)}, kStructure);
}

TEST_P(JournalConflicts, BothRemoveANameEachOfAnObjectWithTwo) {
  ExpectOk(Append({a_.Link(file_, kRoot, "f2")}));
  b_.Learn(a_);
  ExpectOk(Append({a_.Remove(kRoot, "f2", file_, false, false)}));
  // Each name is its own entry; the one who takes the last one must know it.
  ExpectConflict({b_.Remove(dir_, "f", file_, false, false)}, kStructure);
}

TEST_P(JournalConflicts, DataOfADirectory) { ExpectConflict({b_.Truncate(dir_, 0)}, kStructure); }

TEST_P(JournalConflicts, WriteOfWhatNeverWas) {
  ExpectConflict({b_.Write(b_.NewObject(), 0, 3)}, kStructure);
}

TEST_P(JournalConflicts, ObjectIdsAreNotReusedWhileThere) {
  // Stated against 0, as a creation must; the journal has it.
  ExpectConflict({b_.Create(kRoot, "x", ObjectId(Ordinal(4), 900).value()),
                  [&] {
                    RecordMaker fresh(4);
                    fresh.SkipOriginSeq();
                    return fresh.Create(kRoot, "y", ObjectId(Ordinal(4), 900).value());
                  }()},
                 kVersion, 1);
}

TEST_P(JournalConflicts, RenamesWithAllFlags) {
  const uint64_t whiteout = a_.NewObject();
  ExpectOk(Append(
      {a_.Rename(file_, dir_, "f", kRoot, "o", {.replaced = other_, .exchange = true}),
       a_.Rename(other_, dir_, "f", kRoot, "w", {.whiteout = whiteout}),
       a_.Remove(dir_, "f", whiteout),
       a_.Rename(empty_, kRoot, "empty", kRoot, "dir", {.replaced = dir_, .replaced_last = true}),
       a_.Rename(file_, kRoot, "o", empty_, "in"), a_.Write(file_, 0, 3)}));
  ExpectConflict({a_.Remove(kRoot, "dir", empty_, true)}, kStructure);
}

TEST_P(JournalConflicts, LinksAreCounted) {
  ExpectOk(Append({a_.Link(file_, kRoot, "f2"), a_.Remove(dir_, "f", file_, false, false),
                   a_.Remove(kRoot, "dir", dir_, true), a_.Write(file_, 0, 3),
                   a_.Remove(kRoot, "f2", file_)}));
}

}  // namespace

extern const FixtureMaker kJournalFixture;
INSTANTIATE_TEST_SUITE_P(Journal, JournalContract, ::testing::Values(kJournalFixture));
INSTANTIATE_TEST_SUITE_P(Journal, JournalConflicts, ::testing::Values(kJournalFixture));

}  // namespace intermezzo::journal
