package table

import (
	_ "log/slog"

	_ "github.com/checkprocd/checkprocd/cmd/tool"
	_ "github.com/checkprocd/checkprocd/pkg/config"
	_ "github.com/rs/zerolog"
)
