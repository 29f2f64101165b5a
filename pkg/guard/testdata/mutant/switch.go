package guard

import (
	"os"
	"strconv"
)

// mutant is the wrong version that this process is, 0 for none.
var mutant, _ = strconv.Atoi(os.Getenv("MUTANT"))
