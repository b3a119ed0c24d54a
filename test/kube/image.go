package kube

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
)

// An Image is a container image with one layer, made of static programs and files of this machine.
type Image struct {
	Ref        string            // such as "localhost/nearpath/podapp:test"; pods need imagePullPolicy Never or IfNotPresent
	Entrypoint []string          // program and first arguments
	Files      map[string]string // path in the image -> file on this machine; all are executable
	Links      map[string]string // path in the image -> what the symbolic link says
}

// Images that every node has.
const (
	// PodappImage has test/podapp as its entrypoint and at /podapp, and busybox at /bin.
	PodappImage = "localhost/nearpath/podapp:test"

	pauseImage = "localhost/nearpath/pause:test"
)

// imageDirs are in every image: the runtime mounts on some of them.
var imageDirs = []string{"dev", "etc", "proc", "sys", "tmp"}

// Write writes the image as a docker-archive, the format of `docker save`, which `ctr images import` reads. The same
// image gives the same bytes.
func (img Image) Write(w io.Writer) error {
	layer, err := img.layer()
	if err != nil {
		return fmt.Errorf("write image %s: %w", img.Ref, err)
	}
	diffID := fmt.Sprintf("%x", sha256.Sum256(layer))
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Entrypoint": img.Entrypoint, "Env": []string{"PATH=/bin:/"}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + diffID}},
	})
	if err != nil {
		return fmt.Errorf("write image %s: %w", img.Ref, err)
	}
	configName := fmt.Sprintf("%x.json", sha256.Sum256(config))
	layerName := diffID + "/layer.tar"
	manifest, err := json.Marshal([]any{map[string]any{
		"Config": configName, "RepoTags": []string{img.Ref}, "Layers": []string{layerName},
	}})
	if err != nil {
		return fmt.Errorf("write image %s: %w", img.Ref, err)
	}
	archive := tar.NewWriter(w)
	for _, f := range []struct {
		name    string
		content []byte
	}{{layerName, layer}, {configName, config}, {"manifest.json", manifest}} {
		if err := writeFile(archive, f.name, f.content); err != nil {
			return fmt.Errorf("write image %s: %w", img.Ref, err)
		}
	}
	return archive.Close()
}

// layer is the image's file system as a tar file.
func (img Image) layer() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, dir := range img.dirs() {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(img.Files)) {
		content, err := os.ReadFile(img.Files[name])
		if err != nil {
			return nil, err
		}
		if err := writeFile(w, strings.TrimPrefix(name, "/"), content); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(img.Links)) {
		header := &tar.Header{Typeflag: tar.TypeSymlink, Name: strings.TrimPrefix(name, "/"), Linkname: img.Links[name], Mode: 0o777}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// dirs lists the directories of the image, parents first.
func (img Image) dirs() []string {
	dirs := make(map[string]bool)
	for _, d := range imageDirs {
		dirs[d] = true
	}
	for _, names := range []map[string]string{img.Files, img.Links} {
		for name := range names {
			for d := path.Dir(strings.TrimPrefix(name, "/")); d != "."; d = path.Dir(d) {
				dirs[d] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(dirs))
}

func writeFile(w *tar.Writer, name string, content []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// save writes the image to the file at path.
func (img Image) save(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := img.Write(f); err != nil {
		return err
	}
	return f.Close()
}
