package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/atomicfile"
)

// How long the metadata service is waited for at start: not long when the answer is known from before, since Services
// and DNS do not depend on it.
const (
	metadataPatience = 30 * time.Second
	metadataGlance   = 3 * time.Second
)

// An identifier says which instance this is; *aliyun.Metadata is one.
type identifier interface {
	Instance(context.Context) (aliyun.Instance, error)
}

// identify asks which instance this is and remembers it at path. What it remembers is the answer when the metadata
// service has none: an instance keeps its identity for life.
func identify(ctx context.Context, metadata identifier, path string, log *slog.Logger) (aliyun.Instance, error) {
	var known aliyun.Instance
	text, err := os.ReadFile(path)
	remembered := err == nil && json.Unmarshal(text, &known) == nil && known.ID != ""
	patience := metadataPatience
	if remembered {
		patience = metadataGlance
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	instance, err := metadata.Instance(ctx)
	if err != nil && remembered {
		log.Warn("the metadata service does not answer: going on as the instance of the last start", "instance", known.ID, "err", err)
		return known, nil
	}
	if err != nil {
		return aliyun.Instance{}, err
	}
	if text, err = json.Marshal(instance); err != nil {
		return aliyun.Instance{}, err
	}
	return instance, atomicfile.Write(path, text, 0o600)
}
