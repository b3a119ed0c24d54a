package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nearpath/nearpath/internal/atomicfile"
	"github.com/nearpath/nearpath/internal/policy"
)

// journalSuffix ends the name of the journal: lines of what answers have said since the file was written. A client connects as
// soon as it has its answer, so an agent that is killed at any moment has to leave behind what it has let out.
const journalSuffix = ".journal"

// keptNames is the file, and a line of the journal.
type keptNames struct {
	Written time.Time        `json:"written"`
	Names   []policy.Learned `json:"names"`
}

// note writes down what an answer says. It is not synced: a machine that loses power has no connections either. Of what is known,
// not all has to be there: it is good for the time that was written before, and while a connection lasts.
func (p *policyNames) note(now time.Time, all []policy.Learned, known bool) {
	line, err := json.Marshal(keptNames{now, all})
	if err != nil {
		p.Log.Warn("policy names: cannot be kept", "err", err)
		return
	}
	p.file.Lock()
	defer p.file.Unlock()
	if known && p.noted > maxNameJournal {
		return
	}
	if err := appendLine(p.Path+journalSuffix, line); err != nil {
		p.Log.Warn("policy names: cannot be kept", "err", err)
		return
	}
	p.noted += len(line) + 1
}

func appendLine(path string, line []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// save has the file hold all that is known, and empties the journal.
func (p *policyNames) save() {
	p.file.Lock()
	defer p.file.Unlock()
	if err := p.write(time.Now()); err != nil {
		p.Log.Warn("policy names: cannot be kept", "err", err)
		return
	}
	p.noted = 0
}

// write is for save, which holds the lock.
func (p *policyNames) write(now time.Time) error {
	kept := keptNames{Written: now, Names: p.names.Export(now)}
	if len(kept.Names) == 0 {
		return errors.Join(removeIfThere(p.Path), removeIfThere(p.Path+journalSuffix))
	}
	text, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p.Path), 0o700); err != nil {
		return err
	}
	if err := atomicfile.Write(p.Path, text, 0o600); err != nil {
		return err
	}
	return removeIfThere(p.Path + journalSuffix)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// load takes what is in the file and in the journal. What of them can be read counts.
func (p *policyNames) load(now time.Time) error {
	var errs []error
	for _, path := range []string{p.Path, p.Path + journalSuffix} {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for lines := json.NewDecoder(bytes.NewReader(text)); err == nil; {
			var kept keptNames
			if err = lines.Decode(&kept); err == nil {
				p.names.Import(now, max(now.Sub(kept.Written), 0), kept.Names)
			}
		}
		if !errors.Is(err, io.EOF) {
			errs = append(errs, fmt.Errorf("read %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}
