// mezzo as a function: what main() calls, and tests.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "services/mezzo/exit_code.h"
#include "services/mezzo/settings.h"

namespace intermezzo::mezzo {

// Runs `mezzo <arguments>`. Results go to `out`, errors and progress to `err`.
ExitCode RunMezzo(std::vector<std::string> arguments, const Environment& environment,
                  std::ostream& out, std::ostream& err, bool terminal);

}  // namespace intermezzo::mezzo
