// mezzo: the command line.
#include <csignal>
#include <iostream>

#include "services/mezzo/app.h"
#include "services/mezzo/progress.h"

int main(int argc, char** argv) {
  // A reader of our output that goes away is an error of writing, not a signal.
  std::signal(SIGPIPE, SIG_IGN);
  std::ios::sync_with_stdio(false);
  return static_cast<int>(intermezzo::mezzo::RunMezzo(
      std::vector<std::string>(argv + 1, argv + argc), intermezzo::mezzo::ProcessEnvironment(),
      std::cout, std::cerr, intermezzo::mezzo::StderrIsTerminal()));
}
