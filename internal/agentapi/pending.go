package agentapi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// PendingDir is the directory beside the agent's socket that holds the deletions that nearpath-cni could not hand to the
// agent, one file each. An empty socket means DefaultSocket. The directory is on a file system that a reboot empties, as
// it does the links the deletions are about.
func PendingDir(socket string) string {
	if socket == "" {
		socket = DefaultSocket
	}
	return filepath.Join(filepath.Dir(socket), "pending-del")
}

// MaxPendingBytes bounds one file of the directory.
const MaxPendingBytes = maxBody

// PendingName is the name of the file for a deletion: it depends on the network configuration's name, the container
// and the interface alone, so a repeated deletion replaces its file.
func PendingName(network string, request CNIRequest) string {
	sum := sha256.Sum256([]byte(network + "\x00" + request.ContainerID + "\x00" + request.IfName))
	return hex.EncodeToString(sum[:]) + ".json"
}

// WritePending records a deletion durably enough to survive the writer and the agent: the file is written whole under
// another name and then renamed.
func WritePending(dir string, request CNIRequest) (err error) {
	var config struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(request.Config, &config); err != nil {
		return fmt.Errorf("read network name: %w", err)
	}
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode deletion of %s: %w", request.ContainerID, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	// The dot keeps an unfinished file out of the agent's sight.
	file, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return fmt.Errorf("record deletion of %s: %w", request.ContainerID, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("record deletion of %s: %w", request.ContainerID, errors.Join(err, removeIfThere(file.Name())))
		}
	}()
	if _, err := file.Write(body); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := file.Close(); err != nil {
		return err
	}
	return os.Rename(file.Name(), filepath.Join(dir, PendingName(config.Name, request)))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
