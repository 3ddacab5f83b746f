// The shape of the app's two types that the drop-in lists meet, and what its downloader would do with them.
import Foundation

public final class ModelDownloader {
    public struct ModelInfo: Identifiable, Sendable {
        public let id: String
        public let name: String
        public let size: String
        public let downloadURL: String
        public let folderName: String

        public init(id: String, name: String, size: String, downloadURL: String, folderName: String) {
            self.id = id
            self.name = name
            self.size = size
            self.downloadURL = downloadURL
            self.folderName = folderName
        }

        public static var defaults: [ModelInfo] { ZooDropIn.models(showExperimental: true) }
    }

    private struct DownloadFile: Codable {
        let remotePath: String
        let localPath: String
        let estimatedSize: Int64
    }

    func listed(_ id: String, includeMultimodal: Bool) -> [[String]] {
        let pending: [DownloadFile] = ZooDropIn.files(
            of: id, includeMultimodal: includeMultimodal, as: DownloadFile.init)
        return pending.map { [$0.remotePath, $0.localPath, String($0.estimatedSize)] }
    }
}

struct Said: Encodable {
    let picker: [String]
    let experimental: [String]
    let infos: [[String]]
    let files: [String: [[String]]]
    let text: [String: [[String]]]
}

let downloader = ModelDownloader()
let infos = ModelDownloader.ModelInfo.defaults
@MainActor func everyone(_ multimodal: Bool) -> [String: [[String]]] {
    Dictionary(uniqueKeysWithValues: infos.map { ($0.id, downloader.listed($0.id, includeMultimodal: multimodal)) })
}
let said = Said(
    picker: ZooDropIn.models().map(\.id), experimental: infos.map(\.id),
    infos: infos.map { [$0.id, $0.name, $0.size, $0.downloadURL, $0.folderName] },
    files: everyone(true), text: everyone(false))
FileHandle.standardOutput.write(try JSONEncoder().encode(said))
