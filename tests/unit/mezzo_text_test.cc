// What mezzo prints and reads: sizes, times, tables, addresses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>

#include "services/mezzo/exit_code.h"
#include "services/mezzo/settings.h"
#include "services/mezzo/table.h"
#include "services/mezzo/units.h"
#include "tests/support/temp_dir.h"

namespace intermezzo::mezzo {
namespace {

using testing::HasSubstr;

TEST(UnitsTest, BytesGrowIntoTheNextUnit) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanBytes((1 << 20) - 1), "1.0 MiB");
  EXPECT_EQ(HumanBytes(UINT64_MAX), "16.0 EiB");
}

TEST(UnitsTest, DurationsAreReadableAtEveryScale) {
  EXPECT_EQ(HumanDuration(absl::Seconds(-1)), "0 s");
  EXPECT_EQ(HumanDuration(absl::Microseconds(850)), "850 us");
  EXPECT_EQ(HumanDuration(absl::Microseconds(3200)), "3.2 ms");
  EXPECT_EQ(HumanDuration(absl::Milliseconds(4100)), "4.1 s");
  EXPECT_EQ(HumanDuration(absl::Seconds(123)), "2m 03s");
  EXPECT_EQ(HumanDuration(absl::Minutes(310)), "5h 10m");
  EXPECT_EQ(HumanDuration(absl::Hours(76)), "3d 4h");
}

TEST(UnitsTest, CountsAreGrouped) {
  EXPECT_EQ(HumanCount(0), "0");
  EXPECT_EQ(HumanCount(999), "999");
  EXPECT_EQ(HumanCount(1000), "1,000");
  EXPECT_EQ(HumanCount(1234567), "1,234,567");
}

TEST(UnitsTest, TimeoutsAreSecondsOrHaveAUnit) {
  EXPECT_EQ(*ParseTimeout("10"), absl::Seconds(10));
  EXPECT_EQ(*ParseTimeout("250ms"), absl::Milliseconds(250));
  EXPECT_EQ(*ParseTimeout("1m30s"), absl::Seconds(90));
  for (const char* bad : {"", "0", "-1", "soon", "10 apples"}) {
    EXPECT_EQ(ParseTimeout(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(TableTest, ColumnsAlignAlsoWithLettersOfSeveralBytes) {
  Table table({{"NAME"}, {"SIZE", Table::Align::kRight}, {"LAST"}});
  table.AddRow({"caf\xc3\xa9", "1", "x"});
  table.AddRow({"longer", "1234", ""});
  std::ostringstream out;
  table.Print(out);
  EXPECT_EQ(out.str(),
            "NAME    SIZE  LAST\n"
            "caf\xc3\xa9       1  x\n"
            "longer  1234\n");
}

class SettingsTest : public testing::Test {
 protected:
  Environment Env() {
    return [this](const char* name) -> std::optional<std::string> {
      const auto found = variables_.find(name);
      if (found == variables_.end()) return std::nullopt;
      return found->second;
    };
  }
  std::string WriteFile(const std::string& text) {
    const std::string path = dir_.path() + "/mezzo.yaml";
    std::ofstream(path) << text;
    return path;
  }

  tests::TempDir dir_;
  std::map<std::string, std::string> variables_;
};

TEST_F(SettingsTest, StandardPortsOfThisMachineByDefault) {
  const auto addresses = ResolveAddresses({}, Env());
  ASSERT_TRUE(addresses.ok()) << addresses.status();
  EXPECT_EQ(addresses->token, "127.0.0.1:7471");
  EXPECT_EQ(addresses->journal, "127.0.0.1:7472");
  EXPECT_EQ(addresses->forwarder, "127.0.0.1:7473");
}

TEST_F(SettingsTest, FlagsGoBeforeEnvironmentBeforeFile) {
  variables_["MEZZO_CONFIG"] =
      WriteFile("token_address: file:1\njournal_address: file:2\nforwarder_address: file:3\n");
  variables_["MEZZO_TOKEN_ADDRESS"] = "env:1";
  variables_["MEZZO_JOURNAL_ADDRESS"] = "env:2";
  const auto addresses = ResolveAddresses({.server = "", .token = "flag:1"}, Env());
  ASSERT_TRUE(addresses.ok()) << addresses.status();
  EXPECT_EQ(addresses->token, "flag:1");
  EXPECT_EQ(addresses->journal, "env:2");
  EXPECT_EQ(addresses->forwarder, "file:3");
}

TEST_F(SettingsTest, AServerGivenByFlagGoesBeforeAddressesOfTheEnvironment) {
  variables_["MEZZO_TOKEN_ADDRESS"] = "env:1";
  const auto addresses = ResolveAddresses({.server = "::1"}, Env());
  ASSERT_TRUE(addresses.ok()) << addresses.status();
  EXPECT_EQ(addresses->token, "[::1]:7471");
}

TEST_F(SettingsTest, ABadFileIsAnErrorThatNamesTheField) {
  variables_["MEZZO_CONFIG"] = WriteFile("token_adress: a:1\n");
  const auto addresses = ResolveAddresses({}, Env());
  EXPECT_EQ(addresses.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(addresses.status().message()), HasSubstr("token_adress"));
}

TEST_F(SettingsTest, AFileThatIsNamedMustExist) {
  variables_["MEZZO_CONFIG"] = dir_.path() + "/absent.yaml";
  EXPECT_EQ(ResolveAddresses({}, Env()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(SettingsTest, TheFileInTheHomeDirectoryMayBeAbsent) {
  variables_["HOME"] = dir_.path();
  EXPECT_TRUE(ResolveAddresses({}, Env()).ok());
}

TEST(ExitCodeTest, CodesAreDistinct) {
  EXPECT_EQ(ExitCodeFor(absl::OkStatus()), ExitCode::kOk);
  EXPECT_EQ(ExitCodeFor(absl::NotFoundError("")), ExitCode::kNotFound);
  EXPECT_EQ(ExitCodeFor(absl::UnavailableError("")), ExitCode::kUnreachable);
  EXPECT_EQ(ExitCodeFor(absl::DeadlineExceededError("")), ExitCode::kDeadlineExceeded);
  EXPECT_EQ(ExitCodeFor(absl::InvalidArgumentError("")), ExitCode::kUsage);
  EXPECT_EQ(ExitCodeFor(absl::InternalError("")), ExitCode::kError);
}

}  // namespace
}  // namespace intermezzo::mezzo
