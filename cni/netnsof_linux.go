package cni

// NetNSOf returns the path of the network namespace of a pod by its inode number, empty if no record in the directory
// names it. With an error, a record that cannot be read may have.
func NetNSOf(recordsDir string, inode uint64) (string, error) {
	all, err := records(recordsDir).list()
	for _, r := range all {
		if r.Inode == inode && r.lives() {
			return r.NetNS, nil
		}
	}
	return "", err
}
