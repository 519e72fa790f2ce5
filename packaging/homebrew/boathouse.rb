# `packaging/build homebrew` fills in the address and the checksum of the source archive.
class Boathouse < Formula
  desc "Registry for container images and VM images in one program"
  homepage "@HOMEPAGE@"
  url "@URL@"
  sha256 "@SHA256@"
  license any_of: ["MIT", "Apache-2.0"]

  depends_on "rust" => :build

  def install
    # The archive holds no repository: the date of the build is that of its files.
    ENV["SOURCE_DATE_EPOCH"] = (buildpath/"Cargo.toml").mtime.to_i.to_s
    system "cargo", "install", *std_cargo_args
    generate_completions_from_executable(bin/"boathouse", "completions")
    system bin/"boathouse", "man", "man"
    man1.install Dir["man/*.1"]
    doc.install Dir["docs/*.md"]
  end

  def caveats
    <<~EOS
      The service keeps everything in ~/Library/Application Support/Boathouse (on Linux
      in ~/.config/boathouse and ~/.local/share/boathouse). After its first start the
      password of `admin` is in the file admin-password there. Then:
        boathouse trust
        boathouse doctor
    EOS
  end

  # Without --dir, so that `boathouse user add` and the other commands find the registry by themselves. Not
  # `keep_alive successful_exit: false`: on Linux that would mean no restart at all.
  service do
    run [opt_bin/"boathouse", "up"]
    keep_alive true
    stop_timeout 20
    log_path var/"log/boathouse.log"
    error_log_path var/"log/boathouse.log"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/boathouse version")

    port = free_port
    # Strings: Ruby's own `spawn` takes no Pathname.
    server = spawn "#{bin}/boathouse", "up", "--dir", "#{testpath}/registry", "--addr", "127.0.0.1:#{port}"
    begin
      ask = "curl --silent --fail --insecure --retry 20 --retry-delay 1 --retry-connrefused"
      assert_match "ready", shell_output("#{ask} https://127.0.0.1:#{port}/readyz")
      assert_match "repositories  0", shell_output("#{bin}/boathouse status --dir #{testpath}/registry")
    ensure
      Process.kill "TERM", server
      Process.wait server
    end
  end
end
