// Keys and values of the journal's database as bytes: FORMAT.md. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "services/common/types/numbers.h"
#include "services/journal-service/core/admission.h"
#include "services/journal-service/core/journal.h"
#include "services/journal-service/core/version_table.h"

namespace intermezzo::journal::format {

// Version of the format, in the database's `format` row.
inline constexpr uint32_t kVersion = 1;

// Key of the row that holds kVersion (column family meta).
std::string FormatKey();
std::string FormatValue();
// FAILED_PRECONDITION for a format of another version.
absl::Status CheckFormatValue(std::string_view value);

// meta: journals and their cursors, by uid.
std::string JournalKey(uint64_t uid);
std::string CursorsKey(uint64_t uid);
// First byte of every JournalKey.
inline constexpr char kJournalPrefix = 'j';

struct JournalRow {
  std::string name;
  JournalState state;
};
std::string EncodeJournal(const JournalRow& row);
// DATA_LOSS for bytes that are none, here and below.
absl::StatusOr<JournalRow> DecodeJournal(std::string_view value);
std::string EncodeCursors(const std::vector<Cursor>& cursors);
absl::StatusOr<std::vector<Cursor>> DecodeCursors(std::string_view value);

// entries and payloads: uid, seq.
std::string EntryKey(uint64_t uid, Seq seq);
absl::StatusOr<Seq> SeqOfEntryKey(std::string_view key);

// versions: an object, a directory's entry.
std::string ObjectKey(uint64_t uid, uint64_t object);
std::string NameKey(uint64_t uid, uint64_t directory, std::string_view name);
std::string EncodeObject(const ObjectState& state);
absl::StatusOr<ObjectState> DecodeObject(std::string_view value);
std::string EncodeEntry(const EntryState& state);
absl::StatusOr<EntryState> DecodeEntry(std::string_view value);

// origins: uid, ordinal.
std::string OriginKey(uint64_t uid, uint64_t ordinal);
std::string EncodeOrigin(const OriginState& state);
absl::StatusOr<OriginState> DecodeOrigin(std::string_view value);

// Every key of a collection in entries, payloads, versions and origins lies in [begin, end).
std::string UidBegin(uint64_t uid);
std::string UidEnd(uint64_t uid);

}  // namespace intermezzo::journal::format
