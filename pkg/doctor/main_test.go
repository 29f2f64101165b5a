package doctor

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/checkprocd/checkprocd/pkg/process"
)

func TestMain(m *testing.M) {
	process.HelperMain()
	if os.Getenv("DOCTOR_TEST_NONROOT") != "" {
		nonRoot()
		return
	}
	goleak.VerifyTestMain(m)
}
