#define FEDQ_ISA portable
#include "all.hpp"
