package kube

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// entries lists a tar file as "name type mode -> link" and returns the regular files' content by name.
func entries(t *testing.T, archive []byte) (list []string, content map[string][]byte) {
	t.Helper()
	content = make(map[string][]byte)
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list, content
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, strings.TrimSpace(fmt.Sprintf("%s %c %o %s", h.Name, h.Typeflag, h.Mode, h.Linkname)))
		if content[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestImageIsADockerArchive(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("static"), 0o600); err != nil {
		t.Fatal(err)
	}
	img := Image{
		Ref:        "localhost/x:1",
		Entrypoint: []string{"/opt/app/run", "serve"},
		Files:      map[string]string{"/opt/app/run": program, "/bin/box": program},
		Links:      map[string]string{"/bin/sh": "box"},
	}
	var out, again bytes.Buffer
	if err := errors.Join(img.Write(&out), img.Write(&again)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Error("the same image was written differently the second time")
	}
	_, files := entries(t, out.Bytes())
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	m := manifest[0]
	layer := files[m.Layers[0]]
	var config struct {
		Config struct{ Entrypoint []string }
		Rootfs struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := json.Unmarshal(files[m.Config], &config); err != nil {
		t.Fatal(err)
	}
	got := []string{m.RepoTags[0], strings.Join(config.Config.Entrypoint, " "), config.Rootfs.DiffIDs[0]}
	want := []string{"localhost/x:1", "/opt/app/run serve", fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reference, entrypoint, layer (-want +got):\n%s", diff)
	}
	list, _ := entries(t, layer)
	want = []string{
		"bin/ 5 755", "dev/ 5 755", "etc/ 5 755", "opt/ 5 755", "opt/app/ 5 755", "proc/ 5 755", "sys/ 5 755", "tmp/ 5 755",
		"bin/box 0 755", "opt/app/run 0 755", "bin/sh 2 777 box",
	}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
}

func TestImageNamesTheMissingFile(t *testing.T) {
	img := Image{Ref: "localhost/x:1", Files: map[string]string{"/run": "/nowhere/at/all"}}
	err := img.Write(io.Discard)
	if err == nil || !strings.Contains(err.Error(), "localhost/x:1") || !strings.Contains(err.Error(), "/nowhere/at/all") {
		t.Errorf("got %v", err)
	}
}
