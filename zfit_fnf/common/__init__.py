"""What has nothing to do with physics: files, processes, chunks, missing packages."""
